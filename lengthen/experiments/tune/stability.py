"""Is the early validation perplexity of a trial calm? A curve in, a word out; no files, no torch.

The paper asks for no *significant fluctuation* of the validation perplexity at the very beginning.
What is significant is recalled, and not seen in a source: above 1.3 times the lowest so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RISE = 1.3  # perplexity / lowest so far; above it the fluctuation is significant (paper, recalled)

Word = Literal["calm", "not calm", "undecided"]
Curve = Sequence[tuple[int, float | None]]  # (finished steps, nats per token or None)


@dataclass(frozen=True)
class Judgement:
    """What a curve says, and why."""

    word: Word
    why: str
    rise: str = "-"  # the largest one, for a table


def judge(curve: Curve, last: int) -> Judgement:
    """Judge the validation losses of a trial of `last` steps, in their order.

    Not calm, for certain and for good, at the first evaluation with

        loss > best + ln 1.3,    best = the lowest loss before it,

    or at the first that is not finite (None counts as such). Calm once step `last` is evaluated
    without one; undecided until then.
    """
    best = rise = -math.inf
    for step, loss in curve:
        if loss is None or not math.isfinite(loss):
            return Judgement("not calm", f"not finite at step {step}", "not finite")
        best = loss if best == -math.inf else best
        rise = max(rise, loss - best)
        if loss - best > math.log(RISE):
            height = _times(loss - best)
            return Judgement("not calm", f"{height} the lowest so far at step {step}", height)
        best = min(best, loss)
        if step >= last:
            height = _times(rise)
            return Judgement("calm", f"never above {height} the lowest so far", height)
    at, height = (curve[-1][0], _times(rise)) if curve else (0, "-")
    return Judgement("undecided", f"step {at} of {last}", height)


def _times(nats: float) -> str:
    # Of a loss that is out of proportion the factor would be a number of many digits.
    return f"{math.exp(nats):.3g} x" if nats < 20 else f"e^{nats:.0f} x"
