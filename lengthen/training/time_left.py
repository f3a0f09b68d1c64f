"""How long a run will take still: its steps to come by their shapes, not by the mean so far.

    seconds(step) = each + per_flop * FLOP(rows, length)

fitted to the steps so far, so that short steps say what the long ones to come will take.
"""

import time
from bisect import bisect_right
from functools import partial
from itertools import accumulate

from lengthen.config.schema import Config
from lengthen.core.custom_pacing import Custom
from lengthen.core.pacing import Adaptive
from lengthen.core.schedule import Counters, Schedule, spans
from lengthen.model import cost

SPREAD = 0.01  # variance of the FLOP of a step, over their square, from which a line is fitted


class TimeLeft:
    """Is given every step that a run takes, and says the seconds that are left."""

    def __init__(self, config: Config, schedule: Schedule) -> None:
        self._schedule, self._began = schedule, 0.0  # from the end of the first step on
        self._flops = partial(cost.flops, config.model, recompute=config.run.recompute)
        # Shapes that only the run itself decides are taken to stay as they are.
        known = not isinstance(schedule.pacing, Adaptive | Custom)
        parts = list(spans(schedule)) if known else []
        work = [part.steps * self._flops(part.rows, part.length) for part in parts]
        self._ends = list(accumulate(part.steps for part in parts))
        self._each = [self._flops(part.rows, part.length) for part in parts]
        self._work = list(accumulate(work))  # FLOP by the end of each part
        self._steps = self._flop_sum = self._square_sum = 0
        self._second_sum = self._product_sum = 0.0

    def take(self, rows: int, length: int, seconds: float) -> None:
        """Learn what a step took; the first one only warms up."""
        if not self._began:
            self._began = time.monotonic()
            return
        flops = self._flops(rows, length)
        self._steps += 1
        self._flop_sum += flops
        self._second_sum += seconds
        self._square_sum += flops**2
        self._product_sum += flops * seconds

    def seconds(self, counters: Counters, rows: int, length: int) -> float | None:
        """Return the seconds left after a step of that shape, evaluations and saves as so far."""
        if not self._steps:
            return None
        steps, work = self._rest(counters, rows, length)
        each, per_flop = self._fit()
        beside = max(0.0, time.monotonic() - self._began - self._second_sum) / self._steps
        return steps * (each + beside) + per_flop * work

    def _rest(self, counters: Counters, rows: int, length: int) -> tuple[float, float]:
        if not self._ends:
            steps = (self._schedule.budget - counters.tokens) / (rows * length)
            return steps, steps * self._flops(rows, length)
        part = bisect_right(self._ends, counters.step)
        if part == len(self._ends):
            return 0, 0
        work = self._work[-1] - self._work[part]
        work += (self._ends[part] - counters.step) * self._each[part]
        return self._ends[-1] - counters.step, work

    def _fit(self) -> tuple[float, float]:
        """Return the seconds of a step beside its arithmetic, and those of a FLOP."""
        flops, seconds = self._flop_sum / self._steps, self._second_sum / self._steps
        variance = self._square_sum / self._steps - flops**2
        if variance > SPREAD * flops**2:  # else it is nothing but noise
            per_flop = (self._product_sum / self._steps - flops * seconds) / variance
            each = seconds - per_flop * flops
            if per_flop >= 0 and each >= 0:
                return each, per_flop
        return 0.0, seconds / flops
