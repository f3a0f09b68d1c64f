"""Each run of a comparison as its tables see it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from lengthen.analysis.summary import Summary, first_at_or_below, must_be_comparable, summarise
from lengthen.config.schema import Config
from lengthen.experiments.command import Command
from lengthen.experiments.compare.file import Comparison, Planned
from lengthen.experiments.status import Attempts, attempts_of_runs, run_status, was_started_so
from lengthen.reporting.gather import NamedRun
from lengthen.run.directory import RunPaths
from lengthen.run.environment import read_environment
from lengthen.run.records import EvalRecord, StepRecord
from lengthen.util.errors import DataError

VERSIONS = ("lengthen", "torch")  # another one may compute other digits
ALONE = Attempts(alone=True, threads=frozenset({"all"}))  # of a run that no comparison started
EndState = Literal["finished", "diverged", "crashed", "at another budget"]
UNCOUNTED: tuple[EndState, ...] = ("crashed", "at another budget")  # a full disk shows nothing


@dataclass(frozen=True)
class Outcome:
    """A run that has come to its end, whatever that was."""

    run: Planned
    state: EndState
    summary: Summary | None  # None: it crashed before anything was measured
    shown: NamedRun
    config: Config | None  # that it was trained with
    attempts: Attempts

    @property
    def loss(self) -> float | None:
        """The last validation loss, at the end of the budget; None where it did not get there."""
        return self.summary.last_loss if self.summary and self.state == "finished" else None

    @property
    def device(self) -> str:
        """The kind of device, without the number of a card, and the processor, where recorded."""
        device = str(self.shown.environment.get("device", "")).rpartition(", ")[-1]
        return ", ".join(filter(None, (device, self.shown.environment.get("processor"))))

    def time_to(self, loss: float) -> EvalRecord | None:
        """Return the evaluation whose loss was first at or below `loss`."""
        return first_at_or_below(self.shown.metrics.evaluations, loss)


@dataclass(frozen=True)
class Group:
    """All seeds of one variant in one cell."""

    variant: str
    cell: str
    outcomes: tuple[Outcome, ...]

    @property
    def name(self) -> str:
        """What it is called in a table."""
        return f"{self.variant}, {self.cell}" if self.cell else self.variant

    @property
    def summaries(self) -> list[Summary]:
        """Of the runs that have measured anything."""
        return [o.summary for o in self.outcomes if o.summary is not None]

    def by_seed(self) -> dict[int, Outcome]:
        """Return the outcomes by seed, without those that show nothing of their variant."""
        return {o.run.seed: o for o in self.outcomes if o.state not in UNCOUNTED}

    def losses(self) -> dict[int, float | None]:
        """Return the final validation loss of each seed that did not crash, None: it diverged."""
        known = (o for o in self.outcomes if o.state == "diverged" or o.loss is not None)
        return {outcome.run.seed: outcome.loss for outcome in known}

    def mean_loss(self) -> float | None:
        """Return the mean of the final validation losses; None where no seed finished."""
        losses = [loss for loss in self.losses().values() if loss is not None]
        return sum(losses) / len(losses) if losses else None

    def count(self, state: EndState) -> int:
        """Return how many seeds ended so."""
        return sum(outcome.state == state for outcome in self.outcomes)


def read_outcomes(comparison: Comparison, root: Path) -> tuple[list[Outcome], int]:
    """Return what became of the runs, and how many have not come to an end.

    Raises DataError where runs of different tokenizers, validation parts or stores lie together.
    """
    attempts = attempts_of_runs(root)
    ends = [
        read_outcome(run, run.directory(root), attempts.get(run.name, Attempts()))
        for run in comparison.runs
    ]
    outcomes = [outcome for outcome in ends if outcome is not None]
    must_be_comparable({o.run.name: o.shown.environment for o in outcomes if o.shown.environment})
    _must_share_a_store(outcomes)
    outcomes = [_of_budget(one, outcomes, comparison.baseline) for one in outcomes]
    return outcomes, len(comparison.runs) - len(outcomes)


def read_outcome(run: Planned, directory: Path, attempts: Attempts = ALONE) -> Outcome | None:
    """Return what became of the run in `directory`; None where it has not come to an end."""
    status = run_status(directory, run.asked)
    state: EndState = "crashed"
    if status.state == "finished" or status.state == "diverged":
        state = status.state
    elif not attempts.message or not was_started_so(directory, run.asked):
        return None
    metrics = status.metrics
    summary = summarise(metrics) if metrics.steps or metrics.evaluations else None
    environment = read_environment(RunPaths(directory).environment)
    tables = run.asked.tables()
    shown = NamedRun(run.name, metrics, environment, tables, alone=attempts.alone)
    return Outcome(run, state, summary, shown, status.config, attempts)


def _of_budget(outcome: Outcome, outcomes: Sequence[Outcome], baseline: str) -> Outcome:
    """Return an outcome, a command at other tokens than most seeds of the baseline marked so.

    Less than a step makes no difference, since a command need not cut its last one.
    """
    place = baseline, outcome.run.cell
    ends = [_end(one) for one in outcomes if (one.run.variant, one.run.cell) == place]
    own, known = _end(outcome), [end for end in ends if end is not None]
    if own is None or not known:
        return outcome
    (expected, step) = Counter(known).most_common(1)[0][0]
    if own[0] == expected or abs(own[0] - expected) < max(step, own[1]):
        return outcome
    message = f"it ended at {own[0]:,} tokens and not at {expected:,}"
    attempts = replace(outcome.attempts, message=message)
    return replace(outcome, state="at another budget", attempts=attempts)


def _end(outcome: Outcome) -> tuple[int, float] | None:
    """Return the tokens of a command's last validation loss, and of a step at its end."""
    if outcome.state != "finished" or not isinstance(outcome.run.asked, Command):
        return None
    metrics = outcome.shown.metrics
    records: list[StepRecord | EvalRecord] = [*metrics.steps, *metrics.evaluations]
    known = {(one.step, one.tokens) for one in records if one.tokens is not None}
    logged = [(0, 0), *sorted(known)]
    (before, least), (step, tokens) = logged[-2:]
    return metrics.evaluations[-1].tokens or 0, (tokens - least) / max(1, step - before)


def _must_share_a_store(outcomes: Sequence[Outcome]) -> None:
    names: dict[str, dict[str, str]] = {}  # cell -> store -> a run that was trained on it
    for outcome in outcomes:
        if outcome.config is not None and (store := outcome.config.data.store_id) is not None:
            names.setdefault(outcome.run.cell, {})[store] = outcome.run.name
    for of_cell in names.values():
        if len(of_cell) > 1:
            one, other = list(of_cell.values())[:2]
            raise DataError(f"not comparable: {one} and {other} were trained on different stores")


def groups(comparison: Comparison, outcomes: Sequence[Outcome]) -> list[Group]:
    """Return the outcomes by cell and variant, in the order of the file."""
    members: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        members.setdefault((outcome.run.cell, outcome.run.variant), []).append(outcome)
    return [
        Group(variant, cell, tuple(members[cell, variant]))
        for cell in comparison.cells
        for variant in comparison.variants
        if (cell, variant) in members
    ]


def notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each way in which runs were computed otherwise than others, or than now."""
    now = {name: version(name) for name in VERSIONS}
    devices = {outcome.device for outcome in outcomes if outcome.device}
    names: dict[str, list[str]] = {}
    for outcome in outcomes:
        unlike = list(_unlike(outcome, now))
        if len(devices) > 1:
            unlike.append(f"computed on {outcome.device or 'a device that is not recorded'}")
        for what in unlike:
            names.setdefault(what, []).append(outcome.run.name)
    return [
        f"{runs[0]}{f' and {len(runs) - 1} more' if runs[1:] else ''}: {what}"
        for what, runs in names.items()
    ]


def _unlike(outcome: Outcome, now: Mapping[str, str]) -> Iterator[str]:
    packages = outcome.shown.environment.get("packages")
    known = packages if isinstance(packages, dict) else {}
    other = [name for name in VERSIONS if known.get(name) not in (None, now[name])]
    if other:
        versions = ", ".join(f"{name} {known[name]} (now {now[name]})" for name in other)
        yield f"taken over as trained, with {versions}"
    if outcome.config is None:
        return
    asked, used = (one.batch.micro_tokens for one in (outcome.run.config, outcome.config))
    if asked not in ("auto", used):
        yield f"batch.micro_tokens is {used}, the file asks for {asked}; equal to rounding"
