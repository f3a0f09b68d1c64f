"""Loss ratios in a log: which steps are unstable, and where the spikes are (paper, 2.1)."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TypeAlias

from lengthen.core.loss_ratio import UNSTABLE
from lengthen.run.records import ProbeRecord, StepRecord

THRESHOLDS = (1.1, UNSTABLE, 1.5)  # the paper's is the one between; the others show how near it is
PAPERS = THRESHOLDS.index(UNSTABLE)
MOST_SPIKES = 5  # of one run that are worth a line

Judged: TypeAlias = StepRecord | ProbeRecord  # what has a loss ratio


@dataclass(frozen=True)
class Spike:
    """A maximal run of neighbouring steps above 1.1, placed at its highest step."""

    step: int
    tokens: int | None
    length: int | None  # tokens in a row; None for a probe
    ratio: float | None  # None: not finite, which is worse than any number
    duration: int  # steps from the first to the last one


@dataclass(frozen=True)
class Ratios:
    """The loss ratios of a run's steps, or of its probes."""

    count: int  # steps, or probes
    unstable: tuple[int, ...]  # above each of THRESHOLDS, or not finite
    marked: int  # of the paper's, where the length changed or rows are joined (no fair ratio)
    not_finite: int
    largest: float | None  # None: no ratio yet
    largest_step: int | None
    spikes: tuple[Spike, ...]  # the worst first, MOST_SPIKES at most

    @property
    def above_papers(self) -> int:
        """How many are unstable by the paper's definition."""
        return self.unstable[PAPERS]


def height(record: Judged) -> float:
    """Return the loss ratio as what can be compared with a threshold.

    Infinite where the record is not finite, minus infinity without a ratio.
    """
    if not record.is_finite:
        return math.inf
    return -math.inf if record.loss_ratio is None else record.loss_ratio


def spikes_of(records: Sequence[Judged]) -> list[Spike]:
    """Return the separate spikes of steps or probes in their order."""
    groups = groupby(records, key=lambda record: height(record) > THRESHOLDS[0])
    return [_spike(list(group)) for spiking, group in groups if spiking]


def _spike(run: Sequence[Judged]) -> Spike:
    top = max(run, key=height)
    length = top.length if isinstance(top, StepRecord) else None
    ratio = height(top) if math.isfinite(height(top)) else None
    return Spike(top.step, top.tokens, length, ratio, run[-1].step - run[0].step + 1)


def ratios_of(records: Sequence[Judged]) -> Ratios:
    """Count what is unstable among steps, or among probes, in the order of steps."""
    heights = [height(record) for record in records]
    largest = max(filter(math.isfinite, heights), default=None)
    above = [[ratio > threshold for ratio in heights] for threshold in THRESHOLDS]
    return Ratios(
        count=len(records),
        unstable=tuple(sum(unstable) for unstable in above),
        marked=sum(map(operator.and_, above[PAPERS], _marks(records))),
        not_finite=heights.count(math.inf),
        largest=largest,
        largest_step=None if largest is None else records[heights.index(largest)].step,
        spikes=tuple(
            sorted(spikes_of(records), key=lambda s: -(s.ratio or math.inf))[:MOST_SPIKES]
        ),
    )


def _marks(records: Sequence[Judged]) -> list[bool]:
    """Return for which records the loss cannot be compared with the one before."""
    steps = [record for record in records if isinstance(record, StepRecord)]
    changed = [False, *(before.length != step.length for before, step in pairwise(steps))]
    marks = [bool(step.joined) or new for step, new in zip(steps, changed, strict=False)]
    return marks or [False] * len(records)
