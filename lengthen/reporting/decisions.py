"""What an adaptive pacing saw and decided: marks beside the curves of its run, and a table."""

from collections.abc import Iterator, Sequence

from lengthen.reporting.figures import Mark
from lengthen.reporting.gather import NamedRun
from lengthen.run.metrics import Metrics
from lengthen.run.records import ObservationRecord
from lengthen.util.tables import Table, number

NOTE = (
    "Circles are of adaptive pacings: along the length a full one where it grew, an empty one "
    "where it looked and held; beside the training loss, the loss that it observed."
)
ROWS = 12  # of the table of decisions, about; many runs show fewer each


def decided(metrics: Metrics) -> Iterator[Mark]:
    """Yield every decision at its step and the length that it led to."""
    for one in metrics.observations:
        text = f"held at {one.length}"
        if one.grew:
            text = f"grew from {one.length} to {one.next_length} after {one.held} steps"
        text = f"{text}, {_observed(one.loss)}"
        yield Mark(one.step, one.next_length, text, hollow=not one.grew)


def observed(metrics: Metrics) -> Iterator[Mark]:
    """Yield every observed loss that is finite, at the tokens trained by then."""
    for one in metrics.observations:
        if one.loss is not None:
            text = f"{_observed(one.loss)} at length {one.length}"
            yield Mark(one.tokens, one.loss, text, hollow=True)


def _observed(loss: float | None) -> str:
    return "observed " + ("a loss that is not finite" if loss is None else f"{loss:.4f} nats")


def fewer(marks: Sequence[Mark], most: int) -> list[Mark]:
    """Return at most about `most` marks: every full one, and of the empty ones each so many."""
    hollow = [mark for mark in marks if mark.hollow]
    kept = set(hollow[:: -(-len(hollow) // most) or 1])
    return [mark for mark in marks if not mark.hollow or mark in kept]


def table(runs: Sequence[NamedRun]) -> Table | None:
    """Return each growth, and where a run still holds; None without an adaptive pacing.

    Of a run with many growths it has the first and the last, and how many are between.
    """
    found = {run.name: _growths(run) for run in runs if run.metrics.observations}
    if not found:
        return None
    each = max(1, ROWS // (2 * len(found)))
    return Table(
        "What adaptive pacings decided",
        ("run", "step", "length", "next", "held steps", "observed loss", "to beat", "growth"),
        tuple((name, *cells) for name, growths in found.items() for cells in _rows(growths, each)),
        "To beat: the lowest loss observed at this length before. Calm: pacing.patience "
        "observations in a row were not above it. Forced: pacing.max_hold steps went by first. "
        f"Of many growths a run shows its first {each} and last {each}.",
    )


def _growths(run: NamedRun) -> list[ObservationRecord]:
    """Return the observations that a growth followed, and the last one whatever it was."""
    every = run.metrics.observations
    return [one for one in every if one.grew or one is every[-1]]


def _rows(growths: Sequence[ObservationRecord], each: int) -> Iterator[tuple[str, ...]]:
    between = growths[each:-each]
    if len(between) < 2:  # a row of its own is no longer than the row that counts it
        yield from map(_row, growths)
        return
    yield from map(_row, growths[:each])
    forced = sum(one.forced for one in between)
    yield (*("...",) * 6, f"{len(between):,} more, {forced:,} forced")
    yield from map(_row, growths[-each:])


def _row(one: ObservationRecord) -> tuple[str, ...]:
    place = (f"{count:,}" for count in (one.step, one.length, one.next_length, one.held))
    kind = "forced" if one.forced else "calm" if one.grew else "not yet"
    return (*place, number(one.loss, 4, "not finite"), number(one.best, 4), kind)
