"""What an adaptive pacing saw and decided, as marks beside the curves of its run."""

from collections.abc import Iterator, Sequence

from lengthen.picture import Mark
from lengthen.runlog import Metrics, Record
from lengthen.spikes import figure

NOTE = (
    "Circles are of adaptive pacings: along the length a full one where it grew, an empty one "
    "where it looked and held; beside the training loss, the loss that it observed."
)


def decided(metrics: Metrics) -> Iterator[Mark]:
    """Yield every decision at its step and the length that it led to."""
    growths = [event for event in metrics.of("event") if event.get("event") == "length"]
    held = {figure(event, "step"): figure(event, "held") for event in growths}
    for record in metrics.of("observation"):
        step, before, after = (figure(record, name) for name in ("step", "length", "next_length"))
        if step is None or before is None or after is None:
            continue
        if after == before:
            yield Mark(step, after, f"held at {before:g}, {_observed(record)}", hollow=True)
            continue
        steps = held.get(step)
        since = "" if steps is None else f" after {steps:g} steps"
        yield Mark(step, after, f"grew from {before:g} to {after:g}{since}, {_observed(record)}")


def observed(metrics: Metrics) -> Iterator[Mark]:
    """Yield every observed loss that is finite, at the tokens trained by then."""
    for record in metrics.of("observation"):
        tokens, loss, length = (figure(record, name) for name in ("tokens", "loss", "length"))
        if tokens is not None and loss is not None and length is not None:
            yield Mark(tokens, loss, f"{_observed(record)} at length {length:g}", hollow=True)


def _observed(record: Record) -> str:
    loss = figure(record, "loss")
    return "observed " + ("a loss that is not finite" if loss is None else f"{loss:.4f} nats")


def fewer(marks: Sequence[Mark], most: int) -> list[Mark]:
    """Return at most about `most` marks: every full one, and of the empty ones each so many."""
    hollow = [mark for mark in marks if mark.hollow]
    kept = set(hollow[:: -(-len(hollow) // most) or 1])
    return [mark for mark in marks if not mark.hollow or mark in kept]
