"""What a configuration will do, step by step, before it runs; trains nothing and times nothing.

Whoever wants seconds brings those of a step (`calibrate` has them): a plan knows shapes alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate

import numpy as np

from lengthen import cost
from lengthen.clock import Schedule, crossed, steps
from lengthen.config import Config
from lengthen.devices import fit_check
from lengthen.errors import MemoryLimitError
from lengthen.hardware import device_here, memory_limit
from lengthen.ledger import Ledger, reuse_spacing

CPU_PASS = 4096  # tokens of a pass on a processor: larger ones fall out of its caches
POINTS = 200  # of a curve, evenly spread over the budget


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
    config: Config, micro_tokens: int, sequences: int | None = None, *, calm: bool = True
) -> Plan:
    """Work out a run step by step, with the schedule and the ledger that the trainer uses.

    `sequences` is N of the store, which leftovers and passes need. An adaptive pacing is taken to
    find its loss calm always, the quickest that it can grow, or never, the slowest. Costs some
    microseconds a step. Raises SettingError for a vocabulary or a budget that only a store gives.
    """
    schedule = config.schedule(sequences)
    ledger = None if sequences is None else _first_ledger(config, schedule, sequences)
    shapes: Counter[tuple[int, int]] = Counter()
    full = lowest = None
    curve: list[Moment] = []
    warmup_tokens = most_leftover = 0
    for moment, behind in _walk(config, schedule, ledger, calm=calm):
        ledger = behind
        shapes[moment.rows, moment.length] += 1
        warmup_tokens = moment.tokens if moment.step <= schedule.warmup_steps else warmup_tokens
        most_leftover = max(most_leftover, moment.leftover or 0)
        if full is None and moment.length == schedule.full_length:
            full = moment
        if lowest is None and _has_decayed(schedule, moment):
            lowest = moment
        if moment is full or moment is lowest or _is_point(schedule, moment):
            curve.append(moment)
    if curve[-1] != moment:
        curve.append(moment)
    return Plan(
        schedule=schedule,
        shapes=dict(shapes),
        curve=tuple(curve),
        full=full,
        lowest=lowest,
        warmup_tokens=warmup_tokens,
        parameters=cost.parameters(config.model),
        memory=memory_of(config, micro_tokens),
        micro_tokens=micro_tokens,
        corpus=None if ledger is None else _corpus(ledger, moment.tokens, most_leftover),
    )


def _walk(
    config: Config, schedule: Schedule, ledger: Ledger | None, *, calm: bool
) -> Iterator[tuple[Moment, Ledger | None]]:
    """Yield every step with the ledger behind it, which is None where N is unknown."""
    of_step = cache(partial(cost.flops, config.model, recompute=config.run.recompute))
    flops = 0
    for clock, shape in steps(schedule, calm=calm):
        if ledger is not None:
            _, ledger = ledger.take(shape.rows, shape.length)
        flops += of_step(shape.rows, shape.length)
        moment = Moment(
            step=clock.step + 1,
            tokens=clock.tokens + shape.tokens,
            length=shape.length,
            rows=shape.rows,
            rate=shape.rate,
            flops=flops,
            leftover=None if ledger is None else ledger.leftover,
        )
        yield moment, ledger


def _first_ledger(config: Config, schedule: Schedule, sequences: int) -> Ledger:
    return Ledger.start(
        sequences=sequences,
        full_length=config.model.length,
        reuse_after=reuse_spacing(config.batch.reuse_after, schedule.most_rows, sequences),
        leftovers=config.batch.leftovers,
    )


def _has_decayed(schedule: Schedule, moment: Moment) -> bool:
    # The rate of a step looks at the tokens before it.
    warm = moment.step > schedule.warmup_steps
    return warm and moment.tokens_before >= schedule.decay_tokens


def _is_point(schedule: Schedule, moment: Moment) -> bool:
    if moment.step in (1, schedule.warmup_steps):  # where a curve begins, and where it turns
        return True
    return crossed(max(1, schedule.budget // POINTS), moment.tokens_before, moment.tokens)


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
    parts = (count * of_step(*shape) for shape, count in plan.shapes.items())
    so_far = np.interp([moment.step for moment in plan.curve], ends, [0.0, *accumulate(parts)])
    return tuple(so_far.tolist())


def memory_of(config: Config, micro_tokens: int) -> int:
    """Return the bytes that training takes at its peak, with so many tokens in a pass."""
    doubled = 2 if config.run.precision == "fp64" else 1
    return doubled * cost.memory(config.model, micro_tokens, recompute=config.run.recompute)


def auto_micro_tokens(config: Config) -> int:
    """Return the tokens of a pass that "auto" comes to for one process on this machine.

    On a GPU they are foretold from its free memory, where `train` tries them; too little of it for
    one row gives one row, since a plan is also made for a larger machine. So a processor is taken
    to have enough.
    """
    device = device_here(config.run.device)
    if device.type == "cpu":
        return micro_tokens_within(config, limit=None)
    length, limit = config.model.length, memory_limit(device)
    try:
        whole = config.batch.rows * length
        return fit_check(whole, length, lambda size: memory_of(config, size) <= limit)
    except MemoryLimitError:
        return length


def micro_tokens_within(config: Config, limit: int | None, world: int = 1) -> int:
    """Return the tokens of a pass on a CPU with `limit` bytes, None meaning any number.

    Raises MemoryLimitError where not one row fits.
    """
    length = config.model.length
    whole = min(-(-config.batch.rows // world) * length, max(length, CPU_PASS))

    def fits(size: int) -> bool:
        return limit is None or memory_of(config, size) <= limit

    return fit_check(whole, length, fits)
