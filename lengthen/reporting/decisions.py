"""What an adaptive pacing observed and decided: marks beside the curves of its run, and a table."""

from collections.abc import Iterator, Sequence

from lengthen.reporting.curves import Mark
from lengthen.reporting.gather import NamedRun
from lengthen.run.metrics import Metrics
from lengthen.util.tables import Table, counted, number

NOTE = (
    "Circles are of adaptive pacings: along the length a full one where it grew, an empty one "
    "where it looked and stayed; beside the training loss, the loss that it observed."
)
ROWS = 12  # of the table of decisions, about; many runs show fewer each


def decided(metrics: Metrics) -> Iterator[Mark]:
    """Yield every decision at its step and the length that it led to."""
    for one in metrics.observations:
        text = f"stayed at {one.length}"
        if one.grew:
            after = counted(one.steps_at_length, "step")
            text = f"grew from {one.length} to {one.next_length} after {after}"
        yield Mark(one.step, one.next_length, f"{text}, {_observed(one.loss)}", hollow=not one.grew)


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
    """Return each growth, and where a run is now; None without an adaptive pacing.

    Of a run with many growths it has the first and the last.
    """
    rows = {run.name: list(_rows(run)) for run in runs if run.metrics.observations}
    if not rows:
        return None
    each = max(1, ROWS // (2 * len(rows)))
    shown = {
        name: own if len(own) <= 2 * each + 1 else [*own[:each], *own[-each:]]
        for name, own in rows.items()
    }
    return Table(
        "What adaptive pacings decided",
        ("run", "step", "length", "next", "steps at it", "observed loss", "to beat", "growth"),
        tuple((name, *cells) for name, own in shown.items() for cells in own),
        "To beat: the lowest loss observed at this length before. Calm: pacing.patience "
        "observations in a row were not above it. Forced: pacing.max_hold steps went by first. "
        f"Of many growths a run shows its first {each} and last {each}.",
    )


def _rows(run: NamedRun) -> Iterator[tuple[str, ...]]:
    """Yield the growths of a run, and its last decision whatever it was."""
    every = run.metrics.observations
    for one in every:
        if one.grew or one is every[-1]:
            counts = (
                f"{count:,}"
                for count in (one.step, one.length, one.next_length, one.steps_at_length)
            )
            kind = "forced" if one.forced else "calm" if one.grew else "not yet"
            yield (*counts, number(one.loss, 4, "not finite"), number(one.lowest, 4), kind)
