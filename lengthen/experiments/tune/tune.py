"""`lengthen tune`: find start and duration by short trials, write them down with their evidence."""

import json
from collections.abc import Sequence
from pathlib import Path

from lengthen.config.schema import Config
from lengthen.data.open_store import open_store
from lengthen.distributed.device import cards, usable_cores
from lengthen.experiments.runner import ATTEMPTS, Machine, machine_for
from lengthen.experiments.tune.cost import bill, read_beside
from lengthen.experiments.tune.estimate import chosen_or_likely, foretold
from lengthen.experiments.tune.problem import Question, ask
from lengthen.experiments.tune.run import carry_out, is_a_searchs
from lengthen.experiments.tune.search import FIRST, End, Setting, next_step
from lengthen.experiments.tune.summary import Found, no_calm, sentences, trials_of
from lengthen.experiments.tune.tables import curve_name, facts, panels, trials_table
from lengthen.experiments.tune.trials import TRIALS, Seen, losses, outcomes, place_of
from lengthen.reporting.gather import NamedRun
from lengthen.reporting.html import must_be_ours, write
from lengthen.run.directory import RunPaths
from lengthen.run.environment import read_environment
from lengthen.util.disk import Disk
from lengthen.util.errors import SettingError, UnstableError
from lengthen.util.tables import console, printed

TUNED, PAGE, FACTS = "tuned.toml", "tune.html", "tune.json"  # in a tuner's directory
EARLIER = "tuned.before.toml"  # there too: what a search with another result has found
OWN = {TRIALS, ATTEMPTS, TUNED, EARLIER, PAGE, FACTS}
COMMENT = "# lengthen tune: "  # how a file begins that a search wrote
CORES = 4  # for each trial: speculation beside the needed one is only worth what that leaves idle


def tune(
    config: Config,
    root: Path,
    *,
    starts: Sequence[int] = (),
    judge_tokens: int | None = None,
    aggressive: bool = False,
    jobs: int | None = None,
    threads: int | None = None,
    shown: bool = True,
) -> None:
    """Find start and duration for `config` by trials in `root`; print and write what was found.

    Writes tuned.toml, tune.html and tune.json. `starts` are tried in rising order; `judge_tokens`
    of the validation part are read by each evaluation of a race, a quarter by others. Raises
    SettingError and DataError for what cannot be tuned, BusyError, StoppedError after a signal,
    UnstableError where no trial was calm, and for a trial that crashed what it ended with.
    """
    question = ask(
        config,
        open_store(config),
        starts=starts,
        judge_tokens=judge_tokens,
        aggressive=aggressive,
    )
    must_be_a_tuners(root)
    machine = _machine(question, jobs, threads)
    _say_what_it_costs(question, root, machine)
    seen = carry_out(question, root, machine, shown=shown)
    found = _found(question, root, seen)
    _write(root, found)
    out = console()
    out.print(printed(trials_table(found)))
    for sentence in sentences(found):
        print(sentence)
    print(f"report  {root / PAGE}")
    if found.chosen is None:
        raise UnstableError(no_calm(found))
    print(f"next    lengthen train {root / TUNED} --out RUN")


def must_be_a_tuners(root: Path) -> None:
    """Raise SettingError where a search cannot write into `root` without hurting what is there."""
    if not root.exists():
        return
    if not root.is_dir():
        raise SettingError("--out", "must be a directory", str(root))
    names = {entry.name for entry in root.iterdir()}
    # Hidden ones are what an interrupted command, or the user's desktop, left behind.
    strange = sorted(name for name in names - OWN if not name.startswith("."))
    if TRIALS in names:
        strange = [] if is_a_searchs(root) else [TRIALS, *strange]
    if strange:
        rule = f"holds {strange[0]}, which no search wrote, so all of it stays"
        raise SettingError("--out", rule, str(root), "give a new directory")
    for name, is_ours in ((TUNED, _is_tuned), (EARLIER, _is_tuned), (FACTS, _is_facts)):
        if name in names and not is_ours(root / name):
            raise SettingError("--out", f"holds a {name} that no search wrote", str(root))
    must_be_ours(root / PAGE)


def _is_tuned(path: Path) -> bool:
    return path.is_file() and path.read_text(errors="replace").startswith(COMMENT)


def _is_facts(path: Path) -> bool:
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.keys() >= {"chosen", "trials", "share"}


def _say_what_it_costs(question: Question, root: Path, machine: Machine) -> None:
    """Print what the search will cost, but where nothing is left to do."""
    share = foretold(question, outcomes(question, root))
    if share.most > 0:
        more = ", and more with trials side by side" * (machine.jobs > 1)
        print(
            f"cost    from {100 * share.least:.1f} to {100 * share.most:.1f} % of one training's "
            f"FLOP, evaluation included, with every trial run to its end{more}",
            flush=True,
        )


def _machine(question: Question, jobs: int | None, threads: int | None) -> Machine:
    first = question.training(Setting(question.space.starts[0], FIRST))
    most = cards(first.run.device) or max(1, usable_cores() // CORES)
    return machine_for([first], most if jobs is None else max(1, jobs), jobs, threads)


def _found(question: Question, root: Path, seen: dict[Setting, Seen]) -> Found:
    trials = list(seen.values())
    end = next_step(question.space, losses(trials))
    assert isinstance(end, End)
    likely = chosen_or_likely(question.space, end)
    cost = bill(question, trials, likely, read_beside(root, trials))
    return Found(question, end.chosen, trials, cost, _threads(root, trials))


def _threads(root: Path, seen: Sequence[Seen]) -> list[int]:
    files = (RunPaths(place_of(root, one.trial)).environment for one in seen)
    counts = {read_environment(file).get("threads") for file in files}
    return sorted(count for count in counts if isinstance(count, int))


def _write(root: Path, found: Found) -> None:
    disk = Disk()
    _write_tuned(disk, root, found)
    disk.replace_file(root / FACTS, (json.dumps(facts(found), indent=1) + "\n").encode())
    write(
        root / PAGE,
        [_shown(root, one) for one in found.seen if one.metrics.steps],
        title="lengthen tune",
        verdicts=sentences(found),
        tables=[trials_table(found)],
        panels=panels(found),
        families={one.trial.label: curve_name(one) for one in found.seen},
    )


def _write_tuned(disk: Disk, root: Path, found: Found) -> None:
    """Write the choice; one of another search goes aside, so that none is taken for this one's."""
    tuned, settings = root / TUNED, ""
    if found.chosen is not None:
        settings = found.question.training(found.chosen).to_toml()
    if tuned.exists() and tuned.read_text(encoding="utf-8").partition("\n")[2] != settings:
        disk.rename(tuned, root / EARLIER)
        print(f"note    {TUNED} of an earlier search is now {EARLIER}")
    if settings:
        comment = f"{COMMENT}{sentences(found)[0]} {_evidence(found)}\n"
        disk.replace_file(tuned, (comment + settings).encode())


def _evidence(found: Found) -> str:
    share = f"{100 * found.bill.flop_share:.1f} % of one training's FLOP"
    chosen, text = found.chosen, f"{trials_of(found.bill)}, {share}."
    if chosen is not None and chosen.rate * chosen.rows > 1:
        text += f" --aggressive: {chosen.rate} x the rate, {chosen.rows} x the rows."
    return text


def _shown(root: Path, one: Seen) -> NamedRun:
    environment = read_environment(RunPaths(place_of(root, one.trial)).environment)
    return NamedRun(one.trial.label, one.metrics, environment, one.trial.config.tables())
