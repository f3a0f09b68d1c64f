"""Stability, as it is seen during a run (paper, sections 2.1 and 4.1).

loss ratio      loss / lowest loss of all *earlier* steps; a step above 1.2 is unstable
variance norm   l1 norm of sqrt(v), v Adam's second moment, over all that have one
variance max    largest element of sqrt(v)

A loss at one length is not comparable with a loss at another: the probe, a few full-length
sequences evaluated on the side, has a ratio of its own.
"""

import math
from dataclasses import dataclass

UNSTABLE = 1.2  # the paper's threshold
PROBE_SEQUENCES = 8  # K: the first full-length sequences of the validation part
SKIPS_IN_A_ROW = 3  # not finite so often, a run is lost, whatever on_nonfinite says
OBSERVED_SEQUENCES = 32  # whose fronts an adaptive pacing looks at


@dataclass(frozen=True)
class LowestLoss:
    """The lowest finite loss so far; what the next loss is compared with."""

    value: float | None = None

    def ratio(self, loss: float) -> float | None:
        """Return loss / lowest earlier loss; None before there is one, or for no finite loss."""
        if self.value is None or not math.isfinite(loss):
            return None
        # A loss of exactly 0 is a corpus known by heart; any ratio to it says nothing.
        return loss / self.value if self.value > 0 else None

    def after(self, loss: float) -> "LowestLoss":
        """Return the lowest loss once `loss` counts too."""
        if not math.isfinite(loss):
            return self
        return LowestLoss(loss if self.value is None else min(self.value, loss))


def perplexity(loss: float) -> float:
    """Return exp(loss); infinite where that is above what a float holds."""
    return math.exp(loss) if loss < 700 else math.inf


def finite_or_none(value: float) -> float | None:
    """Return what JSON can hold: not a number and infinity become null."""
    return value if math.isfinite(value) else None
