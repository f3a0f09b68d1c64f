"""Loss ratios in a log: which steps are unstable, and where the spikes are (paper, 2.1).

Logs may be foreign, old or damaged: a field that is missing, or no finite number, is not there.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from lengthen.core.loss_ratio import UNSTABLE
from lengthen.run.directory import Record

THRESHOLDS = (1.1, UNSTABLE, 1.5)  # the paper's is the one between; the others show how near it is

PAPERS = THRESHOLDS.index(UNSTABLE)

MOST_SPIKES = 5  # of one run that are worth a line

LARGEST = 1e300  # beyond it the arithmetic of plots and means overflows


@dataclass(frozen=True)
class Spike:
    """A maximal run of neighbouring steps above 1.1, placed at its highest step."""

    step: int
    tokens: float | None
    length: float | None  # tokens in a row
    ratio: float | None  # None: not finite, which is worse than any number
    duration: int  # steps from the first to the last one

    @property
    def badness(self) -> float:
        """What orders spikes: the ratio, infinite where it is not finite."""
        return math.inf if self.ratio is None else self.ratio


@dataclass(frozen=True)
class Ratios:
    """The loss ratios of a run's steps, or of its probes."""

    count: int  # steps, or probes
    unstable: tuple[int, ...]  # above each of THRESHOLDS, or not finite
    marked: tuple[int, ...]  # of those, where the length changed or rows are joined (no fair ratio)
    not_finite: int
    largest: float | None  # None: no ratio yet
    largest_step: int | None
    spikes: tuple[Spike, ...]  # the worst first, MOST_SPIKES at most

    @property
    def shares(self) -> tuple[float, ...]:
        """The unstable share at each of THRESHOLDS, from 0 to 1."""
        return tuple(unstable / self.count for unstable in self.unstable)

    @property
    def beyond(self) -> int:
        """How many are unstable by the paper's definition."""
        return self.unstable[PAPERS]


def figure(record: Record, name: str) -> float | None:
    """Return a field that is a finite number; None for anything else."""
    return finite(record.get(name))


def finite(value: object) -> float | None:
    """Return a finite number as it is, None for anything else: a log can hold all things."""
    # By type, as a bool is an int too; the comparison takes any int, and is false for nan.
    if (type(value) is float or type(value) is int) and abs(value) <= LARGEST:
        return value
    return None


def numbered(records: Iterable[Record]) -> list[Record]:
    """Return the records that say at which step they were written, in the order of steps."""
    return sorted((r for r in records if type(r.get("step")) is int), key=lambda r: r["step"])


def largest_ratio(steps: Iterable[Record]) -> float | None:
    """Return the largest loss ratio of a run; None where no step has one."""
    return max((ratio for ratio in map(height, steps) if math.isfinite(ratio)), default=None)


def height(record: Record) -> float:
    """Return the loss ratio of a step or a probe as what can be compared with a threshold.

    Infinite where the record is not finite (JSON has null for it), minus infinity without a ratio.
    """
    unknown = "loss" in record and figure(record, "loss") is None
    if unknown or record.get("finite") is False:
        return math.inf
    ratio = figure(record, "loss_ratio")
    return -math.inf if ratio is None else ratio


def spikes(records: Sequence[Record]) -> list[Spike]:
    """Return the separate spikes of steps or probes in their order."""
    groups = groupby(records, key=lambda record: height(record) > THRESHOLDS[0])
    return [_spike(list(group)) for spiking, group in groups if spiking]


def _spike(run: Sequence[Record]) -> Spike:
    top = max(run, key=height)
    place = (top["step"], figure(top, "tokens"), figure(top, "length"))
    ratio = height(top) if math.isfinite(height(top)) else None
    return Spike(*place, ratio, run[-1]["step"] - run[0]["step"] + 1)


def ratios_of(records: Sequence[Record]) -> Ratios:
    """Count what is unstable among steps, or among probes, in the order of steps."""
    heights = [height(record) for record in records]
    marks = _marks(records)
    largest = max((ratio for ratio in heights if math.isfinite(ratio)), default=None)
    above = [[ratio > threshold for ratio in heights] for threshold in THRESHOLDS]
    return Ratios(
        count=len(records),
        unstable=tuple(sum(unstable) for unstable in above),
        marked=tuple(sum(map(operator.and_, unstable, marks)) for unstable in above),
        not_finite=heights.count(math.inf),
        largest=largest,
        largest_step=None if largest is None else records[heights.index(largest)]["step"],
        spikes=tuple(sorted(spikes(records), key=lambda s: (-s.badness, s.step))[:MOST_SPIKES]),
    )


def _marks(steps: Sequence[Record]) -> list[bool]:
    """Say of which steps the loss cannot be compared with the one before (DESIGN, 2.6)."""
    joined = [bool(figure(step, "joined")) for step in steps]
    lengths = [step.get("length") for step in steps]
    changed = [False, *(before != length for before, length in pairwise(lengths))]
    return list(map(operator.or_, joined, changed))
