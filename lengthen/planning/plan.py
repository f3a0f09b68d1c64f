"""What a configuration will do, step by step, before it runs; trains nothing and times nothing.

A plan knows shapes alone: `calibrate` has the seconds of a step.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

import numpy as np

from lengthen.config.schema import Config
from lengthen.core.ledger import Ledger
from lengthen.core.schedule import Schedule, Span, spans
from lengthen.data.stream import StepStream, ledgers
from lengthen.distributed.memory import mask_of, memory_of
from lengthen.model import cost

POINTS = 200  # of a curve, evenly spread over the budget
PROGRESS_EVERY = 1000  # steps that a plan walks one by one


@dataclass(frozen=True)
class PlanPoint:
    """A finished step, as its line in metrics.jsonl has it, and the run's arithmetic by then."""

    step: int  # finished steps, from 1
    tokens: int  # trained tokens, this step's included
    length: int
    rows: int
    learning_rate: float  # of this step
    flops: int  # of the run so far
    leftover: int | None = None  # unread tokens of open sequences; None without a store

    @property
    def step_tokens(self) -> int:
        """Tokens that this step trains on."""
        return self.rows * self.length

    @property
    def tokens_before(self) -> int:
        """Tokens trained before this step."""
        return self.tokens - self.step_tokens


@dataclass(frozen=True)
class Corpus:
    """What the run makes of its corpus."""

    epochs: float  # tokens that were read or dropped / tokens of the corpus
    unread: int  # tokens of the last epoch that stay unread
    leftover: int  # those of them that lie in open sequences
    most_leftover: int  # after any step
    dropped: int  # tokens, of the whole run


@dataclass(frozen=True)
class Plan:
    """The run that a configuration gives."""

    schedule: Schedule
    shapes: dict[tuple[int, int], int]  # (rows, length) -> steps, in the order of the run
    curve: tuple[PlanPoint, ...]  # some 200 steps, spread over the budget: the first, ..., the last
    full: PlanPoint | None  # first step at full length; None where the budget ends before it
    lowest: PlanPoint | None  # first step whose learning rate is the minimum; None: there is none
    warmup_tokens: int  # trained while the learning rate warms up
    parameters: int
    memory: int  # bytes, at full length
    mask: int  # those of them that a document mask takes
    micro_tokens: int
    corpus: Corpus | None  # None without a store

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.curve[-1].step

    @property
    def tokens(self) -> int:
        """Trained tokens of the whole run."""
        return self.curve[-1].tokens

    @property
    def flops(self) -> int:
        """Operations of all forward and backward passes, attention at its real length."""
        return self.curve[-1].flops

    @property
    def short_of_budget(self) -> int:
        """Tokens of the budget that are not one more row."""
        return self.schedule.budget - self.tokens

    @property
    def warmup_steps(self) -> int:
        """Steps of the rate's warm-up that the run gets to."""
        return min(self.steps, self.schedule.warmup_steps)

    @property
    def lengths(self) -> dict[int, int]:
        """Steps at each length, the shortest first."""
        counts: Counter[int] = Counter()
        for (_, length), count in self.shapes.items():
            counts[length] += count
        return dict(sorted(counts.items()))


def plan(
    config: Config,
    micro_tokens: int,
    sequences: int | None = None,
    *,
    calm: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> Plan:
    """Work out a run, with the schedule and the ledger that the trainer uses.

    `sequences` is N of the store, which leftovers and epochs need. An adaptive pacing is taken to
    find its loss calm always, the quickest that it can grow, or never, the slowest. Steps of one
    shape are summed at once; only with a store, short steps that requeue are walked one by one,
    some microseconds each, and `progress` gets the trained tokens now and then. Raises
    SettingError for a vocabulary or a budget that only a store gives.
    """
    schedule = config.schedule(sequences)
    of_step = partial(cost.flops, config.model, recompute=config.run.recompute)
    ledger = None
    if sequences is not None:
        stream = StepStream(schedule, sequences, reuse_after=config.batch.reuse_after)
        ledger = stream.start.ledger
    shapes: Counter[tuple[int, int]] = Counter()
    marks = _Marks()
    flops = most_leftover = 0
    for span in spans(schedule, calm=calm):
        each, done = of_step(span.rows, span.length), 0
        points = _points(schedule, span, marks)
        for count in sorted({*points, span.steps}):
            if ledger is not None:
                ledger, most_leftover = _read(ledger, span, count - done, most_leftover, progress)
            done, flops = count, flops + (count - done) * each
            point = _point(schedule, span, count, flops, ledger)
            marks.take(schedule, point, is_point=count in points)
        shapes[span.rows, span.length] += span.steps
    if marks.curve[-1] != point:
        marks.curve.append(point)
    return Plan(
        schedule=schedule,
        shapes=dict(shapes),
        curve=tuple(marks.curve),
        full=marks.full,
        lowest=marks.lowest,
        warmup_tokens=marks.warmup_tokens,
        parameters=cost.parameters(config.model),
        memory=memory_of(config, micro_tokens),
        mask=mask_of(config, micro_tokens),
        micro_tokens=micro_tokens,
        corpus=None if ledger is None else _corpus(ledger, point.tokens, most_leftover),
    )


@dataclass
class _Marks:
    """What a plan keeps of the steps that it walks."""

    curve: list[PlanPoint] = field(default_factory=list)
    full: PlanPoint | None = None
    lowest: PlanPoint | None = None
    warmup_tokens: int = 0

    def take(self, schedule: Schedule, point: PlanPoint, *, is_point: bool) -> None:
        if point.step <= schedule.warmup_steps:
            self.warmup_tokens = point.tokens
        if is_point:
            self.curve.append(point)
        if self.full is None and point.length == schedule.full_length:
            self.full = point
        # The rate of a step looks at the tokens before it.
        warm = point.step > schedule.warmup_steps
        falls = schedule.rate_schedule != "constant"
        if self.lowest is None and falls and warm and point.tokens_before >= schedule.decay_tokens:
            self.lowest = point


def _points(schedule: Schedule, span: Span, marks: _Marks) -> set[int]:
    """Return which steps of a span, counted from 1, a plan keeps."""
    counters, each = span.counters, span.plan.tokens
    warm = schedule.warmup_steps - counters.step
    falls = -(-(schedule.decay_start - counters.tokens) // each)
    points = {1 - counters.step, warm, falls}  # where a curve begins, and where it turns
    every = max(1, schedule.budget // POINTS)
    first, last = counters.tokens // every + 1, (counters.tokens + span.tokens) // every
    points |= {-(-(number * every - counters.tokens) // each) for number in range(first, last + 1)}
    if marks.full is None and span.length == schedule.full_length:
        points.add(1)
    if marks.lowest is None:
        points.add(max(warm, 0, -(-(schedule.decay_tokens - counters.tokens) // each)) + 1)
    return {point for point in points if 1 <= point <= span.steps}


def _point(
    schedule: Schedule, span: Span, count: int, flops: int, ledger: Ledger | None
) -> PlanPoint:
    """Return a span's step number `count`, with the operations and the ledger after it."""
    before = schedule.after(span.counters, span.plan, count - 1)
    return PlanPoint(
        step=before.step + 1,
        tokens=before.tokens + span.plan.tokens,
        length=span.length,
        rows=span.rows,
        learning_rate=schedule.step_rate(before, span.plan.tokens),
        flops=flops,
        leftover=None if ledger is None else ledger.leftover,
    )


def _read(
    ledger: Ledger, span: Span, steps: int, most: int, progress: Callable[[int], None]
) -> tuple[Ledger, int]:
    """Return the ledger after some steps of a span, and the most leftover after any so far."""
    for after in ledgers(ledger, span.plan, steps):
        ledger, most = after, max(most, after.leftover)
        if ledger.takes % PROGRESS_EVERY == 0:
            progress(ledger.read)
    return ledger, most


def _corpus(ledger: Ledger, tokens: int, most_leftover: int) -> Corpus:
    return Corpus(
        epochs=(tokens + ledger.dropped) / (ledger.sequences * ledger.full_length),
        unread=ledger.unread,
        leftover=ledger.leftover,
        most_leftover=most_leftover,
        dropped=ledger.dropped,
    )


def seconds_along(plan: Plan, of_step: Callable[[int, int], float]) -> tuple[float, ...]:
    """Return the seconds of training so far at every point of the curve.

    `of_step(rows, length)` are those of one step.
    """
    # Lengths never fall and rows never turn, so all steps of one shape stand together: but for a
    # last one that the budget cut to a shape seen before, whose seconds then come early.
    ends = [0, *accumulate(plan.shapes.values())]
    parts = (count * of_step(*shape) for shape, count in plan.shapes.items())
    so_far = np.interp([point.step for point in plan.curve], ends, [0.0, *accumulate(parts)])
    return tuple(so_far.tolist())
