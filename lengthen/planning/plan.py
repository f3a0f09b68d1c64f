"""What a configuration will do, step by step, before it runs; trains nothing and times nothing.

Whoever wants seconds brings those of a step (`calibrate` has them): a plan knows shapes alone.
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
from lengthen.distributed.memory import memory_of
from lengthen.model import cost

POINTS = 200  # of a curve, evenly spread over the budget
HEARD_EVERY = 1000  # steps that a plan goes through one by one


@dataclass(frozen=True)
class Moment:
    """A finished step, as its line in metrics.jsonl has it, and what the run has taken by then."""

    step: int  # finished steps, from 1
    tokens: int  # trained tokens, this step's included
    length: int
    rows: int
    rate: float  # learning rate of this step
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

    passes: float  # tokens that were read or dropped / tokens of the corpus
    unread: int  # tokens of the last pass that stay unread
    leftover: int  # those of them that lie in open sequences
    most_leftover: int  # behind any step
    dropped: int  # tokens, of the whole run


@dataclass(frozen=True)
class Plan:
    """The run that a configuration gives."""

    schedule: Schedule
    shapes: dict[tuple[int, int], int]  # (rows, length) -> steps, in the order of the run
    curve: tuple[Moment, ...]  # some 200 steps, spread over the budget: the first, ..., the last
    full: Moment | None  # first step at full length; None where the budget ends before it
    lowest: Moment | None  # first step whose rate is the minimum; None likewise
    warmup_tokens: int  # trained while the rate warms up
    parameters: int
    memory: int  # bytes, at full length
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
    heard: Callable[[int], None] = lambda _: None,
) -> Plan:
    """Work out a run, with the schedule and the ledger that the trainer uses.

    `sequences` is N of the store, which leftovers and passes need. An adaptive pacing is taken to
    find its loss calm always, the quickest that it can grow, or never, the slowest. Steps of one
    shape are summed at once; only with a store, short steps that requeue are gone through one by
    one, some microseconds each, and `heard` is told the trained tokens now and then. Raises
    SettingError for a vocabulary or a budget that only a store gives.
    """
    schedule = config.schedule(sequences)
    of_step = partial(cost.flops, config.model, recompute=config.run.recompute)
    ledger = None if sequences is None else _first_ledger(config, schedule, sequences)
    shapes: Counter[tuple[int, int]] = Counter()
    marks = _Marks()
    flops = most_leftover = 0
    for span in spans(schedule, calm=calm):
        each, done = of_step(span.rows, span.length), 0
        points = _points(schedule, span, marks)
        for count in sorted({*points, span.steps}):
            if ledger is not None:
                ledger, most_leftover = _read(ledger, span, count - done, most_leftover, heard)
            done, flops = count, flops + (count - done) * each
            moment = _moment(schedule, span, count, flops, ledger)
            marks.take(schedule, moment, is_point=count in points)
        shapes[span.rows, span.length] += span.steps
    if marks.curve[-1] != moment:
        marks.curve.append(moment)
    return Plan(
        schedule=schedule,
        shapes=dict(shapes),
        curve=tuple(marks.curve),
        full=marks.full,
        lowest=marks.lowest,
        warmup_tokens=marks.warmup_tokens,
        parameters=cost.parameters(config.model),
        memory=memory_of(config, micro_tokens),
        micro_tokens=micro_tokens,
        corpus=None if ledger is None else _corpus(ledger, moment.tokens, most_leftover),
    )


@dataclass
class _Marks:
    """What a plan keeps of the steps that it comes by."""

    curve: list[Moment] = field(default_factory=list)
    full: Moment | None = None
    lowest: Moment | None = None
    warmup_tokens: int = 0

    def take(self, schedule: Schedule, moment: Moment, *, is_point: bool) -> None:
        if moment.step <= schedule.warmup_steps:
            self.warmup_tokens = moment.tokens
        if is_point:
            self.curve.append(moment)
        if self.full is None and moment.length == schedule.full_length:
            self.full = moment
        # The rate of a step looks at the tokens before it.
        warm = moment.step > schedule.warmup_steps
        if self.lowest is None and warm and moment.tokens_before >= schedule.decay_tokens:
            self.lowest = moment


def _points(schedule: Schedule, span: Span, marks: _Marks) -> set[int]:
    """Return which steps of a span, counted from 1, a plan keeps."""
    counters, each = span.counters, span.plan.tokens
    warm = schedule.warmup_steps - counters.step
    points = {1 - counters.step, warm}  # where a curve begins, and where it turns
    every = max(1, schedule.budget // POINTS)
    first, last = counters.tokens // every + 1, (counters.tokens + span.tokens) // every
    points |= {-(-(number * every - counters.tokens) // each) for number in range(first, last + 1)}
    if marks.full is None and span.length == schedule.full_length:
        points.add(1)
    if marks.lowest is None:
        points.add(max(warm, 0, -(-(schedule.decay_tokens - counters.tokens) // each)) + 1)
    return {point for point in points if 1 <= point <= span.steps}


def _moment(
    schedule: Schedule, span: Span, count: int, flops: int, ledger: Ledger | None
) -> Moment:
    """Return a span's step number `count`, with the operations and the ledger behind it."""
    before = schedule.after(span.counters, span.plan, count - 1)
    return Moment(
        step=before.step + 1,
        tokens=before.tokens + span.plan.tokens,
        length=span.length,
        rows=span.rows,
        rate=schedule.learning_rate_at(before),
        flops=flops,
        leftover=None if ledger is None else ledger.leftover,
    )


def _read(
    ledger: Ledger, span: Span, steps: int, most: int, heard: Callable[[int], None]
) -> tuple[Ledger, int]:
    """Return the ledger after some steps of a span, and the most leftover behind any so far."""
    for after in ledgers(ledger, span.plan, steps):
        ledger, most = after, max(most, after.leftover)
        if ledger.takes % HEARD_EVERY == 0:
            heard(ledger.read)
    return ledger, most


def _first_ledger(config: Config, schedule: Schedule, sequences: int) -> Ledger:
    batch = config.batch
    stream = StepStream(
        schedule, sequences, leftovers=batch.leftovers, reuse_after=batch.reuse_after
    )
    return stream.start.ledger


def _corpus(ledger: Ledger, tokens: int, most_leftover: int) -> Corpus:
    return Corpus(
        passes=(tokens + ledger.dropped) / (ledger.sequences * ledger.full_length),
        unread=ledger.unread,
        leftover=ledger.leftover,
        most_leftover=most_leftover,
        dropped=ledger.dropped,
    )


def seconds_along(plan: Plan, of_step: Callable[[int, int], float]) -> tuple[float, ...]:
    """Return the seconds of training so far at every moment of the curve.

    `of_step(rows, length)` are those of one step.
    """
    # Lengths never fall and rows never turn, so all steps of one shape stand together: but for a
    # last one that the budget cut to a shape seen before, whose seconds then come early.
    ends = [0, *accumulate(plan.shapes.values())]
    parts = (count * of_step(*step_plan) for step_plan, count in plan.shapes.items())
    so_far = np.interp([moment.step for moment in plan.curve], ends, [0.0, *accumulate(parts)])
    return tuple(so_far.tolist())
