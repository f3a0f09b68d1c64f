"""Pacings: a value, a sequence length or a number of rows, for every step (paper, section 2.2).

Every kind keeps one contract: the value lies in [start, end] and never decreases; it is a multiple
of `multiple`, where it has one, but for a start or an end that is none; where start < end and
duration > 0 it is `start` at step 0, below `end` before step `duration`, and exactly `end` from
then on; a duration that is a setting scales it: the value is one of step / duration alone. The
adaptive one has no duration: what it observes decides, in `max_hold` steps a value.

Steps count from 0. The reference implementation evaluates f at *finished steps + 1*: on the k-th
step of a run it takes f(k), and we take f(k - 1).
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from typing import Annotated, Literal, TypeAlias, get_args

from lengthen.core.settings import VALUES, Doc, Duration, End, Multiple, Of, Paced, Start
from lengthen.util.errors import SettingError, nearest

MOST = 2**40  # of a value or a duration: above any run, and the arithmetic stays quick
MOST_STAGES = 1000


@dataclass(frozen=True, kw_only=True)
class Constant:
    """`end` at every step.

    >>> lengthen.Constant(end=64)(0)
    64
    """

    kind: Literal["constant"] = "constant"
    of: Paced = "length"
    end: End

    def __post_init__(self) -> None:
        check_of(self.of)
        check_whole("end", self.end)

    @property
    def start(self) -> int:
        """The value at step 0."""
        return self.end

    @property
    def duration(self) -> int:
        """The first step with the value `end`."""
        return 0

    def __call__(self, _step: int) -> int:
        """Return the value at every step."""
        return self.end


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Growth in proportion to the step, the paper's pacing.

        value(t) = start + (end - start) * t / duration,    t < duration

    rounded down to a multiple of `multiple`, never below `start`; `end` from `duration` on. Raises
    SettingError for a setting out of its range.

    >>> pacing = lengthen.Linear(start=8, end=64, duration=100)
    >>> pacing(0), pacing(50), pacing(100)
    (8, 32, 64)
    """

    kind: Literal["linear"] = "linear"
    of: Paced = "length"
    start: Start
    end: End
    duration: Duration
    multiple: Multiple = 8  # of the tensor cores

    def __post_init__(self) -> None:
        _check_growth(self)

    def __call__(self, step: int) -> int:
        """Return the value at `step`."""
        if step >= self.duration:
            return self.end
        value = self.start + (self.end - self.start) * step // self.duration
        return max(self.start, value // self.multiple * self.multiple)


@dataclass(frozen=True, kw_only=True)
class Root:
    """Growth along a root of the step: quick at first, then slower.

        value(t) = start + (end - start) * (t / duration) ** (1 / degree),    t < duration

    rounded down to a multiple of `multiple`, never below `start`; `end` from `duration` on. Degree
    1 is linear. Raises SettingError for a setting out of its range.

    >>> pacing = lengthen.Root(start=8, end=64, duration=100)
    >>> pacing(0), pacing(50), pacing(100)
    (8, 40, 64)
    """

    kind: Literal["root"] = "root"
    of: Paced = "length"
    start: Start
    end: End
    duration: Duration
    degree: Annotated[int, Doc("of the root, from 1 to 16; 1 is linear")] = 2
    multiple: Multiple = 8

    def __post_init__(self) -> None:
        _check_growth(self)
        check_whole("degree", self.degree, most=16)

    def __call__(self, step: int) -> int:
        """Return the value at `step`."""
        if step >= self.duration:
            return self.end
        span = self.end - self.start
        # The largest gain with (gain / span) ** degree <= step / duration, in whole numbers: a
        # float can land just below one (49 * (1 / 49) < 1), and rounding down loses a multiple.
        gain = floor_root(span**self.degree * step // self.duration, self.degree)
        return max(self.start, (self.start + gain) // self.multiple * self.multiple)


@dataclass(frozen=True, kw_only=True)
class Doubling:
    """Powers of two times the start, each for an equal share of the steps: few shapes to compile.

        value(t) = start * 2 ** (t * k // duration),    t < duration

    `end` from `duration` on; k is how many powers start * 2 ** i lie below `end`, which need not be
    one. Raises SettingError for a setting out of its range.

    >>> list(map(lengthen.Doubling(start=8, end=64, duration=90), (29, 30, 60, 90)))
    [8, 16, 32, 64]
    """

    kind: Literal["doubling"] = "doubling"
    of: Paced = "length"
    start: Start
    end: End
    duration: Duration

    def __post_init__(self) -> None:
        _check_growth(self)

    def __call__(self, step: int) -> int:
        """Return the value at `step`."""
        stages = ((self.end - 1) // self.start).bit_length()
        return self.start << step * stages // self.duration if step < self.duration else self.end


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A list of values, one after the other; two of them are Shortformer's two stages.

        value(t) = values[i],    i = how many boundaries are <= t

    so boundaries[i] is the first step with values[i + 1]. Raises SettingError for lists that are
    not in order or do not fit each other.

    >>> pacing = lengthen.Staged(values=(16, 64), boundaries=(100,))
    >>> pacing(99), pacing(100)
    (16, 64)
    """

    kind: Literal["staged"] = "staged"
    of: Paced = "length"
    values: Annotated[tuple[int, ...], Doc("never falling; the last one is the end", VALUES)]
    boundaries: Annotated[tuple[int, ...], Doc("rising: first step of each next value", "steps")]

    def __post_init__(self) -> None:
        check_of(self.of)
        for name, numbers in (("values", self.values), ("boundaries", self.boundaries)):
            if not isinstance(numbers, tuple):
                raise SettingError(name, "must be a tuple of whole numbers", numbers)
            for number in numbers:
                check_whole(name, number)
        if not 1 <= len(self.values) <= MOST_STAGES:
            raise SettingError("values", f"must have from 1 to {MOST_STAGES} numbers", self.values)
        if any(one > next_one for one, next_one in pairwise(self.values)):
            raise SettingError("values", "must not decrease", self.values)
        if len(self.boundaries) != len(self.values) - 1:
            rule = f"must be one fewer than values ({len(self.values)})"
            raise SettingError("boundaries", rule, self.boundaries)
        if any(one >= next_one for one, next_one in pairwise(self.boundaries)):
            raise SettingError("boundaries", "must increase", self.boundaries)

    @property
    def start(self) -> int:
        """The value at step 0."""
        return self.values[0]

    @property
    def end(self) -> int:
        """The last value."""
        return self.values[-1]

    @property
    def duration(self) -> int:
        """The first step with the value `end`."""
        first = self.values.index(self.end)  # the last value may stand there more than once
        return self.boundaries[first - 1] if first else 0

    def __call__(self, step: int) -> int:
        """Return the value at `step`."""
        return self.values[bisect_right(self.boundaries, step)]


@dataclass(frozen=True)
class AdaptiveState:
    """Where an adaptive pacing stands; together with it this decides what comes next."""

    value: int  # the length now, tokens
    since: int = 0  # step at which it was reached
    observed: int = 0  # step of the last observation, or `since`
    lowest: float | None = None  # loss observed at this length, nats
    calm: int = 0  # observations in a row that were not above it


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """Growth by the model's loss: the length rises while the loss at that length is calm.

    Every `every` steps the trainer measures the validation loss *at the current length*, on tokens
    that stay the same, since losses at different lengths are not comparable. After `patience`
    losses in a row that are not above the lowest at this length it grows to the next `multiple`;
    otherwise the length stays, but for at most `max_hold` steps, so that the end is always reached
    (paper, section 2.2, mentions such a pacing without its rule; this one is ours).

    >>> pacing = lengthen.Adaptive(start=8, end=64, max_hold=50)
    >>> pacing.latest
    350
    """

    kind: Literal["adaptive"] = "adaptive"
    of: Annotated[Literal["length"], Doc("what is paced")] = "length"
    start: Start
    end: End
    multiple: Annotated[int, Doc("the length grows to the next multiple of it", "tokens")] = 8
    every: Annotated[int, Doc("from one observation to the next", "steps")] = 5
    patience: Annotated[int, Doc("calm ones in a row before the length grows", "observations")] = 2
    max_hold: Annotated[int, Doc("longest stay at a length, at least `pacing.every`", "steps")] = 50

    def __post_init__(self) -> None:
        if self.of != "length":
            raise SettingError("of", 'must be "length" for an adaptive pacing', self.of)
        _check_growth(self)
        for name in ("every", "patience"):
            check_whole(name, getattr(self, name))
        check_whole("max_hold", self.max_hold, least=self.every)

    @property
    def latest(self) -> int:
        """The step by which `end` is reached whatever is observed."""
        if self.start == self.end:
            return 0
        growths = -(-self.end // self.multiple) - self.start // self.multiple
        return growths * self.max_hold

    def begin(self) -> AdaptiveState:
        """Return the state before the first step."""
        return AdaptiveState(self.start)

    def resumed(self, state: AdaptiveState | None, step: int) -> AdaptiveState:
        """Return the state after `step` finished steps, which perhaps had another start or end.

        `state` is None where they had another pacing.
        """
        value = min(max(state.value, self.start), self.end) if state else self.start
        if state and value == state.value:
            return state
        return AdaptiveState(value, since=step, observed=step)

    def observes(self, state: AdaptiveState, step: int) -> bool:
        """Return whether an observation is due after `step` finished steps."""
        due = step - state.observed >= self.every or step - state.since >= self.max_hold
        return state.value < self.end and due

    def next(self, state: AdaptiveState, step: int, loss: float) -> AdaptiveState:
        """Return the state after an observation; its value counts from the next step on.

        A loss that is not finite is not calm.
        """
        calm = self.calm(state, loss)
        if calm >= self.patience or step - state.since >= self.max_hold:
            return self.grow(state, step)
        lowest = loss if calm else state.lowest
        return replace(state, observed=step, lowest=lowest, calm=calm)

    def calm(self, state: AdaptiveState, loss: float) -> int:
        """Return the observations in a row, with this one, that were not above the lowest."""
        is_calm = isfinite(loss) and (state.lowest is None or loss <= state.lowest)
        return state.calm + 1 if is_calm else 0

    def grow(self, state: AdaptiveState, step: int) -> AdaptiveState:
        """Return the state when it grows after `step` finished steps."""
        value = min(self.end, (state.value // self.multiple + 1) * self.multiple)
        return AdaptiveState(value, since=step, observed=step)

    def steps_at_a_length(self, *, calm: bool) -> int:
        """Return the steps at each length where every observation is calm, or where none is."""
        return min(self.patience * self.every, self.max_hold) if calm else self.max_hold


Fixed: TypeAlias = (
    Constant | Linear | Root | Doubling | Staged
)  # the step alone decides, in whole numbers
Pacing: TypeAlias = Fixed | Adaptive  # what a settings file can say


def floor_root(value: int, degree: int) -> int:
    """Return the largest whole number whose `degree`-th power is at most `value` >= 0."""
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle)
    return low


def _check_growth(pacing: Linear | Root | Doubling | Adaptive) -> None:
    check_of(pacing.of)
    check_whole("end", pacing.end)
    check_whole("start", pacing.start)
    if pacing.start > pacing.end:
        raise SettingError("start", f"must be at most end ({pacing.end})", pacing.start)
    # An adaptive pacing has no duration, a doubling one no multiple.
    for name, least in (("duration", 0), ("multiple", 1)):
        check_whole(name, getattr(pacing, name, least), least=least)


def check_of(of: str) -> None:
    """Raise SettingError unless `of` names what can be paced."""
    if of not in get_args(Of):
        raise SettingError("of", "no such value to pace", of, nearest(str(of), get_args(Of)))


def check_whole(setting: str, value: object, *, least: int = 1, most: int = MOST) -> None:
    """Raise SettingError unless `value` is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        share = 'give a share of the budget as settings={"pacing.duration": "30%"}'
        hint = share if setting == "duration" and "%" in str(value) else ""
        raise SettingError(setting, "must be a whole number", value, hint)
    if not least <= value <= most:
        raise SettingError(setting, f"must be from {least} to {most}", value)
