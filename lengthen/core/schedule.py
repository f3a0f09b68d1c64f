"""What step t looks like: its rows, its length, its learning rate, and where the budget cuts it.

Nothing else works any of this out. All counts are
whole numbers, so two runs that trained the same tokens agree to the last digit (paper, sections
2.2 and 2.4: the rate warms up in steps and decays in trained tokens).
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

from lengthen.core.budget_share import BudgetShare
from lengthen.core.custom_pacing import Custom
from lengthen.core.ledger import Leftovers
from lengthen.core.pacing import MOST, Adaptive, AdaptiveState, Pacing
from lengthen.util.errors import SettingError

Hold = Literal["rows", "tokens"]
RateByTokens = Literal["none", "sqrt"]
RateSchedule = Literal["cosine", "wsd", "linear", "constant"]


@dataclass(frozen=True)
class Counters:
    """How far a run has come."""

    step: int = 0  # finished steps, t
    tokens: int = 0  # trained tokens
    origin: int = 0  # trained tokens before step `warmup_steps`, or so far: where the decay starts
    adaptive: AdaptiveState | None = None  # of an adaptive pacing, from its first observation on


@dataclass(frozen=True)
class StepPlan:
    """One step: a batch of (rows, length), and the learning rate of its update."""

    rows: int
    length: int  # tokens
    learning_rate: float

    @property
    def tokens(self) -> int:
        """Tokens that this step trains on."""
        return self.rows * self.length


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Everything that decides the shape and the rate of a step."""

    pacing: Pacing | Custom
    full_length: int  # L, tokens
    rows: int  # B, at full length
    hold: Hold = "rows"
    leftovers: Leftovers = "requeue"
    budget: int  # trained tokens
    learning_rate: float  # peak
    rate_by_tokens: RateByTokens = "none"
    min_learning_rate: float
    warmup_steps: int  # W
    decay_tokens: int  # trained tokens at which the rate arrives at its minimum
    rate_schedule: RateSchedule = "cosine"
    wsd_decay_tokens: int | None = None  # of "wsd", up to decay_tokens; None: a tenth of those

    def mistakes(self) -> Iterator[tuple[str, str, object]]:
        """Yield the settings that contradict each other: name, rule, value."""
        end, paced_rows = self.pacing.end, self.pacing.of == "rows"
        if not paced_rows and end > self.full_length:
            yield "pacing.end", f"must be at most model.length ({self.full_length})", end
        if paced_rows and end != self.rows:
            yield "pacing.end", f"must be batch.rows ({self.rows}) where rows are paced", end
        if paced_rows and self.hold == "tokens":
            yield "batch.hold", 'must be "rows" where pacing.of is "rows"', self.hold
        if self.leftovers == "in_place":
            yield from self._cannot_cut()
        decay, setting = self.wsd_decay_tokens, "optimizer.wsd_decay_tokens"
        if decay is not None and self.rate_schedule != "wsd":
            yield setting, 'needs optimizer.schedule = "wsd"', decay
        if decay is not None and decay > self.decay_tokens:
            ends = f"optimizer.decay_tokens, or else the budget ({self.decay_tokens})"
            yield setting, f"must not exceed {ends}", decay
        needed = self.rows_at(Counters()) * self.length(Counters())
        if self.budget < needed:
            yield "budget.tokens", f"must be at least one step ({needed} tokens)", self.budget

    def _cannot_cut(self) -> Iterator[tuple[str, str, object]]:
        if self.pacing.of == "rows":
            yield "batch.leftovers", 'cannot be "in_place" where rows are paced', self.leftovers
        elif self.hold != "tokens":
            yield "batch.leftovers", 'needs batch.hold = "tokens"', self.leftovers
        yield from self.uneven_lengths('batch.leftovers is "in_place"')

    def uneven_lengths(
        self, where: str, counters: Counters | None = None
    ) -> Iterator[tuple[str, str, object]]:
        """Yield a mistake for each length after `counters` that does not divide L.

        Those of a function show as it runs.
        """
        rule = f"must have lengths that divide model.length ({self.full_length}) where {where}"
        schedule = with_duration(self)  # a share as its number would leave every step short
        for span in () if isinstance(self.pacing, Custom) else spans(schedule, counters=counters):
            if self.full_length % span.length:
                yield "pacing", rule, span.length

    def length(self, counters: Counters) -> int:
        """Return the sequence length l of the step that follows `counters`, in tokens."""
        if isinstance(self.pacing, Adaptive):
            return self._adaptive(self.pacing, counters).value
        return self.pacing(counters.step) if self.pacing.of == "length" else self.full_length

    def rows_at(self, counters: Counters) -> int:
        """Return the rows B of the step that follows `counters`, before the budget cuts them."""
        if self.pacing.of == "rows":
            return self.pacing(counters.step)
        if self.hold == "tokens":
            return max(1, self.rows * self.full_length // self.length(counters))
        return self.rows

    @property
    def most_rows(self) -> int:
        """The most rows that any step can have; lengths never fall and paced rows never do."""
        return max(self.rows, self.rows_at(Counters()))

    def observes(self, counters: Counters) -> bool:
        """Return whether an adaptive pacing needs the loss before the next step."""
        if not isinstance(self.pacing, Adaptive):
            return False
        return self.pacing.observes(self._adaptive(self.pacing, counters), counters.step)

    def observed(self, counters: Counters, loss: float) -> Counters:
        """Return the counters after an adaptive pacing got the loss at its length."""
        assert isinstance(self.pacing, Adaptive)
        state = self._adaptive(self.pacing, counters)
        return replace(counters, adaptive=self.pacing.next(state, counters.step, loss))

    def _adaptive(self, pacing: Adaptive, counters: Counters) -> AdaptiveState:
        return counters.adaptive or pacing.begin()

    def learning_rate_at(self, counters: Counters) -> float:
        """Return the learning rate of the step that follows `counters`.

            peak * (t + 1) / W                                              t < W
            minimum + (peak - minimum) * (1 + cos(pi * x)) / 2              then "cosine",
            peak - (peak - minimum) * x                                     "linear" and "wsd",
            peak                                                            "constant"
            x = (tokens - start) / (decay_tokens - start) in [0, 1]

        over the tokens *before* the step, so that step and rate never wait for each other. The
        start is the origin; with "wsd" (warmup, stable, decay: arXiv:2404.06395, section 4) no less
        than decay_tokens - wsd_decay_tokens, and the fall the linear one of arXiv:2405.18392,
        section 3: up to there the rate is that of every longer run, to the last bit.
        """
        if counters.step < self.warmup_steps:
            return self.learning_rate * (counters.step + 1) / self.warmup_steps
        start = max(counters.origin, self.decay_start)
        span = self.decay_tokens - start
        done = min(max(counters.tokens - start, 0) / span, 1.0) if span > 0 else 1.0
        fall = self.learning_rate - self.min_learning_rate
        if self.rate_schedule == "cosine":
            return self.min_learning_rate + fall * (1 + math.cos(math.pi * done)) / 2
        if self.rate_schedule == "constant":
            return self.learning_rate
        return max(self.min_learning_rate, self.learning_rate - fall * done)

    @property
    def decay_start(self) -> int:
        """Trained tokens from which the rate falls, unless it still warms up."""
        if self.rate_schedule != "wsd":
            return 0
        return self.decay_tokens - (self.wsd_decay_tokens or -(-self.decay_tokens // 10))

    def step_rate(self, counters: Counters, tokens: int) -> float:
        """Return the learning rate of the step that follows `counters` and has so many tokens.

        With "sqrt" it is that times sqrt(tokens / those of a full step): the rate of the rule of
        Malladi et al. (arXiv:2205.10287) for Adam, whose betas and epsilon stay here.
        """
        rate = self.learning_rate_at(counters)
        if self.rate_by_tokens == "none":
            return rate
        return rate * math.sqrt(tokens / (self.rows * self.full_length))

    def step_plan(self, counters: Counters) -> StepPlan | None:
        """Return the step that follows; None where not one more row fits the budget.

        In place, where not one more sequence does, as for a step at full length.
        """
        length = self.length(counters)
        whole = self.full_length if self.leftovers == "in_place" else length
        left = (self.budget - counters.tokens) // whole * whole
        rows = min(self.rows_at(counters), left // length)
        if rows <= 0:
            return None
        return StepPlan(rows, length, self.step_rate(counters, rows * length))

    def after(self, counters: Counters, plan: StepPlan, steps: int = 1) -> Counters:
        """Return the counters after so many steps of `plan`."""
        warming = max(0, min(steps, self.warmup_steps - counters.step))
        origin = counters.tokens + warming * plan.tokens if warming else counters.origin
        tokens = counters.tokens + steps * plan.tokens
        return Counters(counters.step + steps, tokens, origin, counters.adaptive)


def steps(
    schedule: Schedule, counters: Counters | None = None, *, calm: bool = True
) -> Iterator[tuple[Counters, StepPlan]]:
    """Yield every step from `counters` to the end of the budget, each with the counters before it.

    What an adaptive pacing will observe nobody knows: it is taken to be calm always, the quickest
    that it can grow, or never, the slowest.
    """
    counters = counters or Counters()
    while (plan := schedule.step_plan(counters)) is not None:
        yield counters, plan
        counters = schedule.after(counters, plan)
        if schedule.observes(counters):
            counters = schedule.observed(counters, 0.0 if calm else math.nan)


@dataclass(frozen=True)
class Span:
    """Steps in a row that have the same rows and length."""

    counters: Counters  # before the first of them
    plan: StepPlan  # of the first; the rate of the others is their own
    steps: int

    @property
    def rows(self) -> int:
        """Rows of each step."""
        return self.plan.rows

    @property
    def length(self) -> int:
        """Length of each step, in tokens."""
        return self.plan.length

    @property
    def tokens(self) -> int:
        """Tokens that they train on, all together."""
        return self.steps * self.plan.tokens


def spans(
    schedule: Schedule,
    most: int | None = None,
    *,
    calm: bool = True,
    counters: Counters | None = None,
) -> Iterator[Span]:
    """Yield the steps of `steps`, up to the step `most`, those of one plan at once.

    Costs some microseconds for each value of the pacing, not for each step.
    """
    pacing, counters = schedule.pacing, counters or Counters()
    while counters.step != most and (plan := schedule.step_plan(counters)) is not None:
        count = (schedule.budget - counters.tokens) // plan.tokens
        count = count if most is None else min(count, most - counters.step)
        change = _change(pacing, counters, count, calm=calm)
        count = count if change is None else min(count, change - counters.step)
        yield Span(counters, plan, count)
        counters = schedule.after(counters, plan, count)
        if isinstance(pacing, Adaptive) and counters.step == change:
            state = counters.adaptive or pacing.begin()
            counters = replace(counters, adaptive=pacing.grow(state, counters.step))


def _change(pacing: Pacing | Custom, counters: Counters, steps: int, *, calm: bool) -> int | None:
    """Return the first step after `counters` with another value.

    None where all, or so many `steps`, have the same one.
    """
    if isinstance(pacing, Adaptive):
        state = counters.adaptive or pacing.begin()
        if state.value == pacing.end:
            return None
        return max(counters.step + 1, state.since + pacing.steps_at_a_length(calm=calm))
    value = pacing(counters.step)
    if value == pacing.end:
        return None
    if isinstance(pacing, Custom):
        later = range(counters.step + 1, counters.step + steps)
        return next((step for step in later if pacing(step) != value), None)
    # A pacing never falls, so its values are in order.
    return bisect_right(range(pacing.duration), value, lo=counters.step, key=pacing)


def with_duration(schedule: Schedule) -> Schedule:
    """Return the schedule with the steps that a share of its budget as a duration comes to.

    They are the fewest with which the tokens before the first step at the pacing's end are at least
    that share. Raises SettingError for a pacing that has no such step.
    """
    pacing = schedule.pacing
    duration = getattr(pacing, "duration", 0)
    if not isinstance(duration, BudgetShare):
        return schedule
    rule = ""
    if pacing.start == pacing.end:
        rule = f"a share needs pacing.start below pacing.end ({pacing.end})"
    elif pacing.of == "rows" and duration.share == 1:
        rule = f"must be below 100%, or no step has all {pacing.end} rows"
    if rule:
        raise SettingError("pacing.duration", rule, duration.text)
    return _lasting(schedule, _fewest_steps(schedule, duration.share * schedule.budget))


def _lasting(schedule: Schedule, steps: int) -> Schedule:
    pacing: Any = schedule.pacing
    return replace(schedule, pacing=replace(pacing, duration=steps))


def _fewest_steps(schedule: Schedule, tokens: Fraction) -> int:
    """Return the fewest steps, at most MOST, of a warmup that trains on so many tokens."""
    endless = replace(schedule, budget=MOST**2)
    longest = list(spans(_lasting(endless, MOST), MOST + 1))
    # Every value is one of step / duration: n steps have n times the mean tokens of the longest
    # warmup, give or take all that the tokens of a step rise and fall.
    mean = Fraction(longest[-1].counters.tokens, MOST)
    variation = sum(abs(one.plan.tokens - other.plan.tokens) for one, other in pairwise(longest))
    steps = min(MOST, max(1, int((tokens - variation) / mean)))
    while steps < MOST and sum(s.tokens for s in spans(_lasting(endless, steps), steps)) < tokens:
        steps += 1
    return steps


def warmup_steps(tokens: int, start: int, rows: int) -> int:
    """Return the steps of a rate warm-up that is given in tokens: ceil(X / (s * B)).

    The paper's rule: while the rate warms up the length hardly grows, so every step of the warm-up
    counts as one at the start length.
    """
    return -(-tokens // (start * rows))


def crossed(every: int, before: int, after: int) -> bool:
    """Return whether a multiple of `every` lies in (before, after]; never where `every` is 0."""
    return every > 0 and before // every < after // every
