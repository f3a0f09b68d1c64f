"""How long a run will take still: its steps to come by their shapes, not by the mean so far.

    seconds(step) = each + per_flop * FLOP(rows, length)

fitted to the steps so far, so that short steps say what the long ones to come will take.
"""

import time
from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from lengthen.config.schema import Config
from lengthen.core.custom_pacing import Custom
from lengthen.core.pacing import Adaptive
from lengthen.core.schedule import Counters, Schedule, spans
from lengthen.model import cost
from lengthen.run.records import StepRecord

SPREAD = 0.01  # variance of the FLOP of a step, over their square, from which a line is fitted


@dataclass
class StepSeconds:
    """What the steps so far took, of several runs side by side too."""

    jobs: int = 1  # side by side
    _began: float | None = None
    _steps: int = 0
    _flops: float = 0.0  # summed over the steps, as all of these
    _seconds: float = 0.0
    _squares: float = 0.0
    _products: float = 0.0

    def begin(self) -> bool:
        """Count the time beside steps, in evaluations and saves, from the first call on.

        Return whether it was an earlier one.
        """
        before, self._began = self._began, self._began or time.monotonic()
        return before is not None

    def take(self, flops: int, seconds: float, steps: int = 1) -> None:
        """Learn the seconds of a step of so many FLOP, the mean of `steps` alike."""
        self._steps += steps
        self._flops += steps * flops
        self._seconds += steps * seconds
        self._squares += steps * flops**2
        self._products += steps * flops * seconds

    def of(self, steps: float, work: float) -> float | None:
        """Return the seconds of so many steps with that FLOP in all; None before any step."""
        if not self._steps or self._began is None:
            return None
        each, per_flop = self._fit()
        wall = self.jobs * (time.monotonic() - self._began)
        beside = max(0.0, wall - self._seconds) / self._steps
        return (steps * (each + beside) + per_flop * work) / self.jobs

    def _fit(self) -> tuple[float, float]:
        """Return the seconds of a step beside its arithmetic, and those of a FLOP."""
        flops, seconds = self._flops / self._steps, self._seconds / self._steps
        variance = self._squares / self._steps - flops**2
        if variance > SPREAD * flops**2:  # else it is nothing but noise
            per_flop = (self._products / self._steps - flops * seconds) / variance
            each = seconds - per_flop * flops
            if per_flop >= 0 and each >= 0:
                return each, per_flop
        return 0.0, seconds / flops


class Rest:
    """The steps of a run that are to come, and their FLOP."""

    def __init__(self, config: Config, schedule: Schedule) -> None:
        self._schedule = schedule
        self._first = schedule.rows_at(Counters()), schedule.length(Counters())
        self.flops = partial(cost.flops, config.model, recompute=config.run.recompute)
        # Shapes that only the run itself decides are taken to stay as they are.
        known = not isinstance(schedule.pacing, Adaptive | Custom)
        parts = list(spans(schedule)) if known else []
        self._each = [self.flops(part.rows, part.length) for part in parts]
        self._ends = list(accumulate(part.steps for part in parts))
        pairs = zip(parts, self._each, strict=True)
        self._work = list(accumulate(part.steps * each for part, each in pairs))

    def after(
        self, step: int = 0, tokens: int = 0, shape: tuple[int, int] | None = None
    ) -> tuple[float, float]:
        """Return the steps after so many, the last one of that shape, and their FLOP in all."""
        if not self._ends:
            rows, length = shape or self._first
            steps = (self._schedule.budget - tokens) / (rows * length)
            return steps, steps * self.flops(rows, length)
        part = bisect_right(self._ends, step)
        if part == len(self._ends):
            return 0, 0
        work = self._work[-1] - self._work[part] + (self._ends[part] - step) * self._each[part]
        return self._ends[-1] - step, work


class TimeLeft:
    """The seconds left of one run, which tells each of its steps."""

    def __init__(self, config: Config, schedule: Schedule) -> None:
        self._rest, self._took = Rest(config, schedule), StepSeconds()

    def after(self, record: StepRecord, seconds: float) -> float | None:
        """Return the seconds left after a step, which took so many; None after the first."""
        shape = record.rows or 0, record.length or 0
        if self._took.begin():  # the first step only warms up
            self._took.take(self._rest.flops(*shape), seconds)
        return self._took.of(*self._rest.after(record.step, record.tokens or 0, shape))
