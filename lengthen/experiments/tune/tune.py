"""`lengthen tune`: find start and duration by short trials, write them down with their evidence."""

import json
from collections.abc import Sequence
from pathlib import Path

from lengthen.config.schema import Config
from lengthen.data.open_store import open_store
from lengthen.distributed.device import cards, usable_cores
from lengthen.experiments.runner import ATTEMPTS, Machine, machine_for
from lengthen.experiments.tune.cost import chosen_or_likely, estimate, search_cost
from lengthen.experiments.tune.problem import Problem, define_problem
from lengthen.experiments.tune.run import carry_out, is_a_search
from lengthen.experiments.tune.search import FIRST, End, Setting, next_step
from lengthen.experiments.tune.summary import (
    SearchResult,
    curve_name,
    facts,
    no_calm,
    panels,
    sentences,
    trials_of,
    trials_table,
)
from lengthen.experiments.tune.trials import TRIALS, TrialResult, losses_of
from lengthen.reporting.gather import NamedRun
from lengthen.reporting.html import must_be_ours, write
from lengthen.run.directory import RunPaths
from lengthen.run.environment import read_environment
from lengthen.util.disk import Disk
from lengthen.util.errors import SettingError, UnstableError
from lengthen.util.overwrite import check_file
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
    """Find start and duration for `config` by trials in `root`; print and write the choice.

    Writes tuned.toml, tune.html and tune.json. `starts` are tried in rising order; `judge_tokens`
    of the validation part are read by each evaluation of a race, a quarter by others. Raises
    SettingError and DataError for what cannot be tuned, BusyError, StoppedError after a signal,
    UnstableError where no trial was calm, and for a trial that crashed what it ended with.
    """
    problem = define_problem(
        config,
        open_store(config),
        starts=starts,
        judge_tokens=judge_tokens,
        aggressive=aggressive,
    )
    must_be_a_tuners(root)
    machine = _machine(problem, jobs, threads)
    _print_estimate(problem, machine)
    result = _result(problem, root, carry_out(problem, root, machine, shown=shown))
    _write(root, result)
    console().print(printed(trials_table(result)))
    for sentence in sentences(result):
        print(sentence)
    print(f"report  {root / PAGE}")
    if result.chosen is None:
        raise UnstableError(no_calm(result))
    print(f"next    lengthen train {root / TUNED} --out RUN")


def must_be_a_tuners(root: Path) -> None:
    """Raise SettingError where a search cannot write into `root` without hurting what is there."""
    if not root.exists():
        return
    if not root.is_dir():
        raise SettingError("--out", "must be a directory", str(root))
    names = {entry.name for entry in root.iterdir()}
    # Hidden ones are what an interrupted command, or the user's desktop, left there.
    strange = sorted(name for name in names - OWN if not name.startswith("."))
    if TRIALS in names:
        strange = [] if is_a_search(root) else [TRIALS, *strange]
    if strange:
        rule = f"holds {strange[0]}, which no search wrote, so all of it stays"
        raise SettingError("--out", rule, str(root), "give a new directory")
    check_file(root / TUNED, "choice of a search", _is_tuned)
    check_file(root / EARLIER, "choice of a search", _is_tuned)
    check_file(root / FACTS, "result of a search", _is_facts)
    must_be_ours(root / PAGE)


def _is_tuned(path: Path) -> bool:
    return path.read_text(errors="replace").startswith(COMMENT)


def _is_facts(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= {"chosen", "trials", "share"}


def _print_estimate(problem: Problem, machine: Machine) -> None:
    share = estimate(problem)
    more = ", more with trials side by side" * (machine.jobs > 1)
    print(
        f"cost    likely {100 * share.likely:.1f}, at most {100 * share.most:.1f} % of one "
        f"training's FLOP, evaluation included, less what is known already{more}",
        flush=True,
    )


def _machine(problem: Problem, jobs: int | None, threads: int | None) -> Machine:
    first = problem.training(Setting(problem.space.starts[0], FIRST))
    most = cards(first.run.device) or max(1, usable_cores() // CORES)
    return machine_for([first], most if jobs is None else max(1, jobs), jobs, threads)


def _result(problem: Problem, root: Path, trials: Sequence[TrialResult]) -> SearchResult:
    end = next_step(problem.space, losses_of(trials))
    assert isinstance(end, End)
    cost = search_cost(problem, trials, chosen_or_likely(problem.space, end), root)
    counts = {_environment(root, one).get("threads") for one in trials}
    threads = sorted(count for count in counts if isinstance(count, int))
    return SearchResult(problem, end.chosen, trials, cost, threads)


def _environment(root: Path, one: TrialResult) -> dict[str, object]:
    return read_environment(RunPaths(one.trial.directory(root)).environment)


def _write(root: Path, result: SearchResult) -> None:
    disk = Disk()
    _write_tuned(disk, root, result)
    disk.replace_file(root / FACTS, (json.dumps(facts(result), indent=1) + "\n").encode())
    shown = [
        NamedRun(one.trial.label, one.metrics, _environment(root, one), one.trial.config.tables())
        for one in result.trials
        if one.metrics.steps
    ]
    write(
        root / PAGE,
        shown,
        title="lengthen tune",
        verdicts=sentences(result),
        tables=[trials_table(result)],
        panels=panels(result),
        families={one.trial.label: curve_name(one) for one in result.trials},
    )


def _write_tuned(disk: Disk, root: Path, result: SearchResult) -> None:
    """Write the choice; one of another search goes aside, so that none is taken for this one's."""
    tuned, settings = root / TUNED, ""
    if result.chosen is not None:
        settings = result.problem.training(result.chosen).to_toml()
    if tuned.exists() and tuned.read_text(encoding="utf-8").partition("\n")[2] != settings:
        disk.rename(tuned, root / EARLIER)
        print(f"note    {TUNED} of an earlier search is now {EARLIER}")
    if result.chosen is not None:
        share = f"{100 * result.cost.flop_share:.1f} % of one training's FLOP"
        evidence = f"{sentences(result)[0]} {trials_of(result.cost)}, {share}."
        rate, rows = result.chosen.rate, result.chosen.rows
        if rate * rows > 1:
            evidence += f" --aggressive: {rate} x the rate, {rows} x the rows."
        disk.replace_file(tuned, f"{COMMENT}{evidence}\n{settings}".encode())
