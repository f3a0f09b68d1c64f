"""`lengthen tune`: find start and duration by short trials, write them down with their evidence."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthen.config.load import Source, differences, load, load_run, with_auto_as
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.auto import decided
from lengthen.distributed.device import cards, usable_cores
from lengthen.experiments.runner import Machine, machine_for
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
from lengthen.run.attempts import ATTEMPTS, ran_side_by_side
from lengthen.run.directory import RunPaths
from lengthen.run.environment import read_environment
from lengthen.util.console import note
from lengthen.util.disk import Disk, as_path
from lengthen.util.overwrite import check_directory, check_file, json_keys
from lengthen.util.tables import Printable, Table

TUNED, PAGE, FACTS = "tuned.toml", "tune.html", "tune.json"  # in a tuner's directory
EARLIER = "tuned.before.toml"  # there too: what a search with another result has found
OWN = {TRIALS, ATTEMPTS, TUNED, EARLIER, PAGE, FACTS}
COMMENT = "# lengthen tune: "  # how a file begins that a search wrote
CORES = 4  # for each trial: speculation beside the needed one is only worth what that leaves idle


@dataclass(frozen=True, repr=False)
class Tuning(Printable):
    """The result of a search; its text is what `lengthen tune` prints."""

    trials: Table
    sentences: tuple[str, ...]  # what was chosen, why, and what it cost
    failure: str  # why nothing was chosen and what to change; empty where something was
    start: int | None  # tokens; None: no trial was calm
    duration: int | None  # steps
    tuned: Path | None  # the configuration that was asked about, with the choice in it
    page: Path  # the evidence

    @property
    def parts(self) -> list[Table | str]:
        """The trials, the sentences, and what to run next."""
        lines = [*self.sentences, f"report  {self.page}"]
        if self.tuned is not None:
            lines.append(f"next    lengthen train {shlex.quote(str(self.tuned))} --out RUN")
        return [self.trials, *lines]


def tune(
    recipe: Source,
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    starts: Sequence[int] = (),
    judge_tokens: int | None = None,
    aggressive: bool = False,
    jobs: int | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> Tuning:
    """Find start and duration of the length warmup by short trials in `out`, and write the choice.

    `recipe`, `data` and `settings` are as for `train`. `starts` are tried in rising order.
    Each evaluation of a race reads `judge_tokens` of the validation part, others a quarter of them.
    `aggressive` also looks for the largest learning rate and rows. `jobs` trials run side by side,
    with `threads` each. Writes tuned.toml, tune.html and tune.json; the same call continues a
    search that was stopped. Raises SettingError and DataError for what cannot be tuned, BusyError,
    StoppedError after a signal, and the error of a trial that crashed.

    >>> small = {"model": {"layers": 1, "width": 16, "heads": 2}, "budget.tokens": 50}
    >>> lengthen.tune("laptop-2min", "runs/tuned", data="store", settings=small, quiet=True)
    Traceback (most recent call last):
    lengthen.util.errors.SettingError: budget.tokens: must be at least one step (512 tokens), got 50
    """
    root = as_path("out", out)
    config, notes = load(recipe, settings, data=data)
    say = (lambda _: None) if quiet else note
    for text in notes:
        say(text)
    store = open_store(config)
    config = with_store(config, store)
    must_be_a_tuners(root)
    config, before = _as_before(config, root)
    config, reasons = decided(config, store)
    problem = define_problem(
        config,
        store,
        starts=starts,
        judge_tokens=judge_tokens,
        aggressive=aggressive,
    )
    machine = _machine(problem, jobs, threads)
    for text in (*before, *reasons, _estimate_text(problem, machine)):
        say(text)
    result = _result(problem, root, carry_out(problem, root, machine, shown=not quiet))
    if moved := _write(root, result):
        say(moved)
    chosen = result.chosen
    return Tuning(
        trials=trials_table(result),
        sentences=tuple(sentences(result)),
        failure=no_calm(result) if chosen is None else "",
        start=None if chosen is None else chosen.start,
        duration=None if chosen is None else chosen.multiple * problem.warmup,
        tuned=None if chosen is None else root / TUNED,
        page=root / PAGE,
    )


def _as_before(config: Config, root: Path) -> tuple[Config, list[str]]:
    """Return a configuration without what an earlier call has decided of "auto", and say so."""
    asked = config.tables()
    for trial in sorted((root / TRIALS).glob("*.toml"))[:1]:
        config = with_auto_as(config, load_run(trial).run)
    taken = {name: now for name, (_, now) in differences(asked, config.tables()).items()}
    why = f"as an earlier search in {root} did"
    return config, [f'{name} = "auto" takes {now}, {why}' for name, now in taken.items()]


def must_be_a_tuners(root: Path) -> None:
    """Raise SettingError where a search cannot write into `root` without hurting what is there."""

    def is_ours(names: set[str]) -> bool:
        if TRIALS in names:
            return is_a_search(root)
        # Hidden ones are what an interrupted command, or the user's desktop, left there.
        return all(name in OWN or name.startswith(".") for name in names)

    check_directory(root, "search", is_ours, overwrite=True)
    check_file(root / TUNED, "choice of a search", _is_tuned)
    check_file(root / EARLIER, "choice of a search", _is_tuned)
    keys = {"chosen", "trials", "share"}
    check_file(root / FACTS, "result of a search", lambda path: json_keys(path) >= keys)
    must_be_ours(root / PAGE)


def _is_tuned(path: Path) -> bool:
    return path.read_text(errors="replace").startswith(COMMENT)


def _estimate_text(problem: Problem, machine: Machine) -> str:
    share = estimate(problem)
    more = ", more with trials side by side" if machine.jobs > 1 else ""
    return (
        f"cost: likely {100 * share.likely:.1f}, at most {100 * share.most:.1f} % of one "
        f"training's FLOP, evaluation included, less what is known already{more}"
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


def _write(root: Path, result: SearchResult) -> str:
    """Write choice, facts and page; return what there is to say of an earlier choice."""
    disk = Disk()
    moved = _write_tuned(disk, root, result)
    disk.replace_file(root / FACTS, (json.dumps(facts(result), indent=1) + "\n").encode())
    alone = not any(map(ran_side_by_side, (root, *root.parents)))
    shown = [
        NamedRun(
            one.trial.label,
            one.metrics,
            _environment(root, one),
            one.trial.config.tables(),
            alone=alone,
        )
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
    return moved


def _write_tuned(disk: Disk, root: Path, result: SearchResult) -> str:
    """Write the choice; one of another search goes aside, so that none is taken for this one's."""
    tuned, settings, moved = root / TUNED, "", ""
    if result.chosen is not None:
        settings = result.problem.training(result.chosen).to_toml()
    if tuned.exists() and tuned.read_text(encoding="utf-8").partition("\n")[2] != settings:
        disk.rename(tuned, root / EARLIER)
        moved = f"{TUNED} of an earlier search is now {EARLIER}"
    if result.chosen is not None:
        share = f"{100 * result.cost.flop_share:.1f} % of one training's FLOP"
        evidence = f"{sentences(result)[0]} {trials_of(result.cost)}, {share}."
        rate, rows = result.chosen.rate, result.chosen.rows
        if rate * rows > 1:
            evidence += f" --aggressive: {rate} x the rate, {rows} x the rows."
        disk.replace_file(tuned, f"{COMMENT}{evidence}\n{settings}".encode())
    return moved
