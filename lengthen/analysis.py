"""What metrics.jsonl says about a run; needs no model and no torch."""

from collections.abc import Iterable

from lengthen.monitor import UNSTABLE
from lengthen.runlog import Record


def first_at_or_below(evaluations: Iterable[Record], loss: float) -> Record | None:
    """Return the first evaluation with a loss of at most `loss`; None where it was not reached."""
    return next((e for e in evaluations if e["loss"] is not None and e["loss"] <= loss), None)


def best_loss(evaluations: Iterable[Record]) -> float | None:
    """Return the lowest finite validation loss, in nats per token."""
    return min((e["loss"] for e in evaluations if e["loss"] is not None), default=None)


def largest_ratio(steps: Iterable[Record]) -> float | None:
    """Return the largest loss ratio of a run; None where no step has one."""
    return max((s["loss_ratio"] for s in steps if s["loss_ratio"] is not None), default=None)


def unstable_steps(steps: Iterable[Record], threshold: float = UNSTABLE) -> list[Record]:
    """Return the steps whose loss ratio is above `threshold`, or that are not finite."""
    return [
        step
        for step in steps
        if not step.get("finite", True)
        or (step["loss_ratio"] is not None and step["loss_ratio"] > threshold)
    ]
