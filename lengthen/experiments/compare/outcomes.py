"""Each run of a comparison as its tables see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lengthen.analysis.summary import Summary, comparable, first_at_or_below, summarise
from lengthen.config.schema import Config
from lengthen.experiments.compare.file import Comparison, Planned
from lengthen.experiments.compare.verdicts import Losses
from lengthen.experiments.status import (
    UNKNOWN,
    Attempts,
    directory,
    read_attempts,
    standing,
    was_started_so,
)
from lengthen.reporting.gather import NamedRun
from lengthen.run.directory import RunPaths
from lengthen.run.environment import read_environment
from lengthen.run.records import EvalRecord
from lengthen.util.errors import DataError

Fate = Literal["finished", "diverged", "crashed"]


@dataclass(frozen=True)
class Outcome:
    """A run that has come to its end, whatever that was."""

    run: Planned
    fate: Fate
    summary: Summary | None  # None: it crashed before its first step
    shown: NamedRun
    found: Config | None  # that it was trained with
    attempts: Attempts

    @property
    def loss(self) -> float | None:
        """The last validation loss, at the end of the budget; None where it did not get there."""
        return None if self.summary is None or self.fate != "finished" else self.summary.last_loss

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
        """Of the runs that have any step."""
        return [o.summary for o in self.outcomes if o.summary is not None]

    def by_seed(self) -> dict[int, Outcome]:
        """Return the outcomes by seed, without those that crashed: they have shown nothing."""
        return {o.run.seed: o for o in self.outcomes if o.fate != "crashed"}

    def losses(self) -> dict[int, float | None]:
        """Return the final validation loss of each seed, None where it diverged.

        A seed that crashed is left out: a full disk says nothing about a variant.
        """
        known = (o for o in self.outcomes if o.fate == "diverged" or o.loss is not None)
        return {outcome.run.seed: outcome.loss for outcome in known}

    def fates(self, fate: Fate) -> int:
        """Return how many seeds ended so."""
        return sum(outcome.fate == fate for outcome in self.outcomes)


def read_outcomes(comparison: Comparison, root: Path) -> tuple[list[Outcome], int]:
    """Return what has become of the runs, and how many have not come to an end.

    Raises DataError where runs of different tokenizers or validation parts lie together.
    """
    attempts = read_attempts(root)
    outcomes = []
    for run in comparison.runs:
        outcome = _outcome(root, run, attempts.get(run.name, UNKNOWN))
        outcomes += [outcome] if outcome is not None else []
    comparable({o.run.name: o.shown.environment for o in outcomes if o.shown.environment})
    _must_share_a_store(outcomes)
    return outcomes, len(comparison.runs) - len(outcomes)


def _must_share_a_store(outcomes: Sequence[Outcome]) -> None:
    for cell in dict.fromkeys(outcome.run.cell for outcome in outcomes):
        inside = [outcome for outcome in outcomes if outcome.run.cell == cell]
        known = [(o.run.name, o.found.data.store_id) for o in inside if o.found is not None]
        ids = {store_id: name for name, store_id in known if store_id is not None}
        if len(ids) > 1:
            one, other = list(ids.values())[:2]
            raise DataError(f"not comparable: {one} and {other} were trained on different stores")


def _outcome(root: Path, run: Planned, attempts: Attempts) -> Outcome | None:
    place = standing(root, run)
    fate: Fate = "crashed"
    if place.state in ("finished", "diverged"):
        fate = "finished" if place.state == "finished" else "diverged"
    elif not attempts.message or not was_started_so(directory(root, run), run.config):
        return None
    summary = summarise(place.metrics) if place.metrics.steps else None
    environment = read_environment(RunPaths(directory(root, run)).environment)
    shown = NamedRun(run.name, place.metrics, environment, run.config.tables())
    return Outcome(run, fate, summary, shown, place.found, attempts)


def groups(comparison: Comparison, outcomes: Sequence[Outcome]) -> list[Group]:
    """Return the outcomes by cell and variant, in the order of the file."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((outcome.run.cell, outcome.run.variant), []).append(outcome)
    return [
        Group(variant, cell, tuple(found[cell, variant]))
        for cell in comparison.cells
        for variant in comparison.variants
        if (cell, variant) in found
    ]


def losses_of(members: Sequence[Group]) -> Losses:
    """Return the table of final validation losses that verdicts are drawn from."""
    return {group.variant: group.losses() for group in members}
