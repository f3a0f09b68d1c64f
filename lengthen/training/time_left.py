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
    """What the steps so far took, and the line through that."""

    steps: int = 0
    seconds: float = 0.0  # summed over the steps, as all of these
    _flops: float = 0.0
    _squares: float = 0.0
    _products: float = 0.0

    def take(self, flops: int, seconds: float, steps: int = 1) -> None:
        """Learn the seconds of a step of so many FLOP, the mean of `steps` alike."""
        self.steps += steps
        self.seconds += steps * seconds
        self._flops += steps * flops
        self._squares += steps * flops**2
        self._products += steps * flops * seconds

    def fit(self) -> tuple[float, float]:
        """Return the seconds of a step beside its arithmetic, and those of a FLOP."""
        flops, seconds = self._flops / self.steps, self.seconds / self.steps
        variance = self._squares / self.steps - flops**2
        if variance > SPREAD * flops**2:  # else it is nothing but noise
            per_flop = (self._products / self.steps - flops * seconds) / variance
            each = seconds - per_flop * flops
            if per_flop >= 0 and each >= 0:
                return each, per_flop
        return 0.0, seconds / flops


class Rest:
    """The steps of a run that are to come after `counters`, and their FLOP."""

    def __init__(
        self, config: Config, schedule: Schedule, counters: Counters | None = None
    ) -> None:
        self._schedule, self._from = schedule, counters or Counters()
        self._first = schedule.rows_at(Counters()), schedule.length(Counters())
        self.flops = partial(cost.flops, config.model, recompute=config.run.recompute)
        # Shapes that only the run itself decides are taken to stay as they are.
        known = not isinstance(schedule.pacing, Adaptive | Custom)
        parts = list(spans(schedule, counters=counters)) if known else []
        self._each = [self.flops(part.rows, part.length) for part in parts]
        self._ends = [part.counters.step + part.steps for part in parts]
        pairs = zip(parts, self._each, strict=True)
        self._work = list(accumulate(part.steps * each for part, each in pairs))

    def after(self, last: StepRecord | None) -> tuple[float, float]:
        """Return the steps after the `last` one, or all of them, and their FLOP in all."""
        now = self._from
        step, tokens = (last.step, last.tokens or 0) if last else (now.step, now.tokens)
        if not self._ends:
            rows, length = (last.rows or 1, last.length or 1) if last else self._first
            steps = (self._schedule.budget - tokens) / (rows * length)
            return steps, steps * self.flops(rows, length)
        part = bisect_right(self._ends, step)
        if part == len(self._ends):
            return 0, 0
        work = self._work[-1] - self._work[part] + (self._ends[part] - step) * self._each[part]
        return self._ends[-1] - step, work


class TimeLeft:
    """How long runs will take still, `jobs` of them side by side; it learns from their steps."""

    def __init__(self, runs: dict[str, Rest], jobs: int = 1) -> None:
        self._runs, self._jobs, self._took = runs, jobs, StepSeconds()
        self._last: dict[str, StepRecord] = {}
        self._began = 0.0  # with the first step seen: from here on evaluations and saves count too

    def learn(self, run: str, now: StepRecord) -> None:
        """Learn what the steps of a run since its last one took; the first only warms up."""
        before, self._last[run] = self._last.get(run), now
        if before is None:
            self._began = self._began or time.monotonic()
        elif now.step > before.step:
            seconds, steps = (now.seconds or 0) - (before.seconds or 0), now.step - before.step
            flops = self._runs[run].flops(now.rows or 0, now.length or 0)
            self._took.take(flops, seconds / steps, steps)

    def end(self, run: str) -> None:
        """Leave out a run that has ended, at the end of its budget or before."""
        self._runs.pop(run, None)

    def work(self) -> tuple[float, float]:
        """Return the steps to come of all runs, and their FLOP."""
        rests = [rest.after(self._last.get(run)) for run, rest in self._runs.items()]
        return sum(steps for steps, _ in rests), sum(flops for _, flops in rests)

    def seconds(self) -> float | None:
        """Return the seconds left; None before any step that counts."""
        took = self._took
        if not took.steps:
            return None
        (each, per_flop), (steps, flops) = took.fit(), self.work()
        beside = self._jobs * (time.monotonic() - self._began) - took.seconds
        each += max(0.0, beside) / took.steps
        return (steps * each + per_flop * flops) / self._jobs
