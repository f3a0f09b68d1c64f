"""What an adaptive pacing observed and decided: marks beside the curves of its run, and a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lengthen.analysis.instability import figure
from lengthen.reporting.curves import Mark
from lengthen.reporting.gather import NamedRun
from lengthen.run.directory import Metrics
from lengthen.util.tables import Table, number

NOTE = (
    "Circles are of adaptive pacings: along the length a full one where it grew, an empty one "
    "where it looked and stayed; beside the training loss, the loss that it observed."
)
ROWS = 12  # of the table of decisions, about; many runs show fewer each


@dataclass(frozen=True)
class Decision:
    """What followed from one observation; lengths in tokens, losses in nats."""

    step: float
    length: float
    next_length: float
    loss: float | None  # None: not finite
    best: float | None  # the lowest observed at this length before; None: there was no earlier one
    calm: int  # observations in a row, up to this one, that were not above the best
    lasted: float | None  # steps at this length; None: the log does not say

    @property
    def grew(self) -> bool:
        """Whether the length changed."""
        return self.next_length != self.length


def decisions(metrics: Metrics) -> Iterator[Decision]:
    """Yield every decision in the order of the log; a broken observation is left out."""
    growths = [event for event in metrics.of("event") if event.get("event") == "length"]
    lasted = {figure(event, "step"): figure(event, "held") for event in growths}
    since, best, calm = 0.0, None, 0
    for record in metrics.of("observation"):
        step, length, after = (figure(record, name) for name in ("step", "length", "next_length"))
        if step is None or length is None or after is None:
            continue
        loss = figure(record, "loss")
        is_calm = loss is not None and (best is None or loss <= best)
        calm = calm + 1 if is_calm else 0
        if after != length:
            yield Decision(step, length, after, loss, best, calm, lasted.get(step))
            since, best, calm = step, None, 0
        else:
            yield Decision(step, length, after, loss, best, calm, step - since)
            best = loss if is_calm else best


def decided(metrics: Metrics) -> Iterator[Mark]:
    """Yield every decision at its step and the length that it led to."""
    for one in decisions(metrics):
        text = f"stayed at {one.length:g}"
        if one.grew:
            after = "" if one.lasted is None else f" after {one.lasted:g} steps"
            text = f"grew from {one.length:g} to {one.next_length:g}{after}"
        yield Mark(one.step, one.next_length, f"{text}, {_observed(one.loss)}", hollow=not one.grew)


def observed(metrics: Metrics) -> Iterator[Mark]:
    """Yield every observed loss that is finite, at the tokens trained by then."""
    for record in metrics.of("observation"):
        tokens, loss, length = (figure(record, name) for name in ("tokens", "loss", "length"))
        if tokens is not None and loss is not None and length is not None:
            yield Mark(tokens, loss, f"{_observed(loss)} at length {length:g}", hollow=True)


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
    rows = {run.name: list(_rows(run)) for run in runs}
    rows = {name: own for name, own in rows.items() if own}
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
    every = list(decisions(run.metrics))
    pacing = run.config.get("pacing")
    patience = figure(pacing, "patience") if isinstance(pacing, dict) else None
    for one in every:
        if one.grew or one is every[-1]:
            numbers = (one.step, one.length, one.next_length, one.lasted)
            yield (
                *(number(value, 0) for value in numbers),
                number(one.loss, 4, "not finite"),
                number(one.best, 4),
                _kind(one, patience),
            )


def _kind(one: Decision, patience: float | None) -> str:
    if not one.grew:
        return "not yet"
    return "-" if patience is None else "calm" if one.calm >= patience else "forced"
