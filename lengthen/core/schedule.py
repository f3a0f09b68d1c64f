"""What step t looks like: its rows, its length, its learning rate, and where the budget cuts it.

The trainer and the plan both iterate `steps`; nobody else works any of this out. All counts are
whole numbers, so two runs that trained the same tokens agree to the last digit (paper, sections
2.2 and 2.4: the rate warms up in steps and decays in trained tokens).
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from lengthen.core.pacing import Adaptive, Grown, Pacing

Hold = Literal["rows", "tokens"]


@dataclass(frozen=True)
class Clock:
    """How far a run has come."""

    step: int = 0  # finished steps, t
    tokens: int = 0  # trained tokens
    origin: int = 0  # trained tokens before step `warmup_steps`, or so far: where the decay starts
    grown: Grown | None = None  # of an adaptive pacing, from its first observation on


@dataclass(frozen=True)
class Shape:
    """One step: a batch of (rows, length), and the learning rate of its update."""

    rows: int
    length: int  # tokens
    rate: float

    @property
    def tokens(self) -> int:
        """Tokens that this step trains on."""
        return self.rows * self.length


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Everything that decides the shape and the rate of a step."""

    pacing: Pacing
    full_length: int  # L, tokens
    rows: int  # B, at full length
    hold: Hold = "rows"
    budget: int  # trained tokens
    peak: float
    minimum: float
    warmup_steps: int  # W
    decay_tokens: int  # trained tokens at which the rate arrives at its minimum

    def length(self, clock: Clock) -> int:
        """Return the sequence length l of the step that follows `clock`, in tokens."""
        if isinstance(self.pacing, Adaptive):
            return self._grown(self.pacing, clock).value
        return self.pacing(clock.step) if self.pacing.of == "length" else self.full_length

    def rows_at(self, clock: Clock) -> int:
        """Return the rows B of the step that follows `clock`, before the budget cuts them."""
        if self.pacing.of == "rows":
            return self.pacing(clock.step)
        if self.hold == "tokens":
            return max(1, self.rows * self.full_length // self.length(clock))
        return self.rows

    @property
    def most_rows(self) -> int:
        """The most rows that any step can have; lengths never fall and paced rows never do."""
        return max(self.rows, self.rows_at(Clock()))

    def observes(self, clock: Clock) -> bool:
        """Return whether an adaptive pacing wants to know the loss before the next step."""
        if not isinstance(self.pacing, Adaptive):
            return False
        return self.pacing.observes(self._grown(self.pacing, clock), clock.step)

    def observed(self, clock: Clock, loss: float) -> Clock:
        """Return the clock when an adaptive pacing has been told the loss at its length."""
        assert isinstance(self.pacing, Adaptive)
        grown = self._grown(self.pacing, clock)
        return replace(clock, grown=self.pacing.next(grown, clock.step, loss))

    def _grown(self, pacing: Adaptive, clock: Clock) -> Grown:
        return clock.grown or pacing.begin()

    def rate(self, clock: Clock) -> float:
        """Return the learning rate of the step that follows `clock`.

            peak * (t + 1) / W                                              t < W
            minimum + (peak - minimum) * (1 + cos(pi * x)) / 2              then,
            x = (tokens - origin) / (decay_tokens - origin) in [0, 1]

        over the tokens *before* the step, so that step and rate never wait for each other.
        """
        if clock.step < self.warmup_steps:
            return self.peak * (clock.step + 1) / self.warmup_steps
        span = self.decay_tokens - clock.origin
        done = min((clock.tokens - clock.origin) / span, 1.0) if span > 0 else 1.0
        return self.minimum + (self.peak - self.minimum) * (1 + math.cos(math.pi * done)) / 2

    def shape(self, clock: Clock) -> Shape | None:
        """Return the step that follows `clock`, or None where not one more row fits the budget."""
        length = self.length(clock)
        rows = min(self.rows_at(clock), (self.budget - clock.tokens) // length)
        return Shape(rows, length, self.rate(clock)) if rows > 0 else None

    def after(self, clock: Clock, shape: Shape, steps: int = 1) -> Clock:
        """Return the clock when so many steps of `shape` are finished."""
        warming = max(0, min(steps, self.warmup_steps - clock.step))
        origin = clock.tokens + warming * shape.tokens if warming else clock.origin
        tokens = clock.tokens + steps * shape.tokens
        return Clock(clock.step + steps, tokens, origin, clock.grown)


def steps(
    schedule: Schedule, clock: Clock | None = None, *, calm: bool = True
) -> Iterator[tuple[Clock, Shape]]:
    """Yield every step from `clock` to the end of the budget, each with the clock before it.

    What an adaptive pacing will observe nobody knows: it is taken to be calm always, the quickest
    that it can grow, or never, the slowest.
    """
    clock = clock or Clock()
    while (shape := schedule.shape(clock)) is not None:
        yield clock, shape
        clock = schedule.after(clock, shape)
        if schedule.observes(clock):
            clock = schedule.observed(clock, 0.0 if calm else math.nan)


@dataclass(frozen=True)
class Span:
    """Steps in a row that have the same rows and length."""

    clock: Clock  # before the first of them
    shape: Shape  # of the first; the rate of the others is their own
    steps: int

    @property
    def rows(self) -> int:
        """Rows of each step."""
        return self.shape.rows

    @property
    def length(self) -> int:
        """Length of each step, in tokens."""
        return self.shape.length

    @property
    def tokens(self) -> int:
        """Tokens that they train on, all together."""
        return self.steps * self.shape.tokens


def spans(schedule: Schedule, most: int | None = None, *, calm: bool = True) -> Iterator[Span]:
    """Yield the steps of `steps`, at most the first `most`, those of one shape at once.

    Costs some microseconds for each value of the pacing, not for each step.
    """
    pacing, clock = schedule.pacing, Clock()
    while clock.step != most and (shape := schedule.shape(clock)) is not None:
        change = _change(pacing, clock, calm=calm)
        count = (schedule.budget - clock.tokens) // shape.tokens
        for end in (most, change):
            count = count if end is None else min(count, end - clock.step)
        yield Span(clock, shape, count)
        clock = schedule.after(clock, shape, count)
        if isinstance(pacing, Adaptive) and clock.step == change:
            clock = replace(clock, grown=pacing.grown(clock.grown or pacing.begin(), clock.step))


def _change(pacing: Pacing, clock: Clock, *, calm: bool) -> int | None:
    """Return the first step behind `clock` with another value; None where all have this one."""
    if isinstance(pacing, Adaptive):
        grown = clock.grown or pacing.begin()
        return None if grown.value == pacing.end else grown.since + pacing.held(calm=calm)
    value = pacing(clock.step)
    if value == pacing.end:
        return None
    # A pacing never falls, so its values are in order.
    return bisect_right(range(pacing.duration), value, lo=clock.step, key=pacing)


def warmup_steps(tokens: int, start: int, rows: int) -> int:
    """Return the steps of a rate warm-up that is given in tokens: ceil(X / (s * B)).

    The paper's rule: while the rate warms up the length hardly grows, so every step of the warm-up
    counts as one at the start length.
    """
    return -(-tokens // (start * rows))


def crossed(every: int, before: int, after: int) -> bool:
    """Return whether a multiple of `every` lies in (before, after]; never where `every` is 0."""
    return every > 0 and before // every < after // every
