"""Seconds of a step on this machine: real steps of the trainer, tried at a few shapes.

    seconds(rows, length) = update + p * each + FLOP(rows, length) * r(x)

    p = micro-batches of the step,    x = tokens of a micro-batch * length

`update` is AdamW, clipping, monitor and loader, `each` what a micro-batch costs even of one token.
r, in seconds per FLOP, is measured at some of the run's shapes and interpolated between them, on
logarithmic axes: a shape that does not fill the machine is slower by a factor.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lengthen.config import load as settings
from lengthen.config.model import Model
from lengthen.config.schema import Config
from lengthen.config.values import MOST, parse_count
from lengthen.core.schedule import StepPlan
from lengthen.data.store import Store
from lengthen.data.store_manifest import Manifest
from lengthen.data.stream import StreamState, accumulation_steps
from lengthen.distributed.auto import decided
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.device import device_here
from lengthen.distributed.memory import memory_limit, memory_of
from lengthen.model import cost
from lengthen.training.trainer import Trainer
from lengthen.training.warm import no_more_graphs, warm
from lengthen.util.errors import SettingError
from lengthen.util.tables import counted

LIMIT = 20.0  # seconds that a calibration may take
SHAPES, FEW_SHAPES = 5, 3  # shapes that it tries; fewer where that takes too long
REPEATS = 15  # steps of a shape, at most
LEAST = 3  # steps of a shape that a median needs, the one to warm up among them
SMALL_BATCHES = 5  # of one token each: beside a single one they show what each costs
LEAST_SHARE = 0.05  # of a step's time is arithmetic, however much noise there is beside it
MOST_RANDOM = 2**24  # tokens of the random corpus: a longer one costs memory and says no more
UTILISATION = 0.7  # of the matrix-product peak that a training step reaches, where none is tried

StepShape = tuple[int, int]  # rows, length
TimedStep = Callable[[int, int, int], float]  # rows, length, micro_tokens -> seconds


@dataclass(frozen=True)
class GivenSpeed:
    """A speed that is one number for every shape."""

    model: Model
    flops_per_second: float
    source: str  # where the number is from
    recompute: bool = False

    def seconds(self, rows: int, length: int) -> float:
        """Return the seconds of a step."""
        work = cost.flops(self.model, rows, length, recompute=self.recompute)
        return work / self.flops_per_second


@dataclass(frozen=True)
class TriedShape:
    """What one shape took."""

    place: float  # between the others, on a logarithmic axis
    per_flop: float  # seconds, of the arithmetic alone


@dataclass(frozen=True)
class MeasuredSpeed:
    """A speed between shapes that were tried on this machine."""

    model: Model
    micro_tokens: int  # of the run
    tried_tokens: int  # the same in the trials; less where time was short
    update: float  # seconds of a step beside its micro-batches
    each: float  # seconds of a micro-batch beside its arithmetic
    tried: tuple[TriedShape, ...]  # by place

    @property
    def source(self) -> str:
        """Where the seconds are from."""
        shapes = counted(len(self.tried), "shape")
        smaller = f", in micro-batches of {self.tried_tokens:,} tokens"
        return f"steps of {shapes} tried here" + smaller * (self.tried_tokens < self.micro_tokens)

    def seconds(self, rows: int, length: int) -> float:
        """Return the seconds of a step."""
        count = accumulation_steps(rows, 1, length, self.micro_tokens)
        place = _place(rows, length, self.micro_tokens)
        places = [shape.place for shape in self.tried]
        logs = np.log([shape.per_flop for shape in self.tried])
        per_flop = np.exp(np.interp(place, places, logs))
        work = cost.flops(self.model, rows, length)
        return self.update + count * self.each + work * float(per_flop)


Speed = GivenSpeed | MeasuredSpeed


def given_speed(config: Config, flops_per_second: str) -> GivenSpeed:
    """Return the speed that somebody gave, such as "100T"; raises SettingError for no number."""
    try:
        speed = parse_count(flops_per_second)
    except ValueError as error:
        raise SettingError("--flops", str(error), flops_per_second) from None
    if not isinstance(speed, int) or speed < 1:
        raise SettingError("--flops", "must be above 0", flops_per_second)
    return GivenSpeed(config.model, float(speed), "as given", config.run.recompute)


def product_speed(config: Config) -> GivenSpeed:
    """Return a share of this machine's matrix products as the speed, measured for half a second."""
    context = DistributedContext(device_here(config.run.device), config.run.precision)
    source = f"{UTILISATION:.0%} of the matrix products here"
    speed = UTILISATION * _matrix_product_peak(context)
    return GivenSpeed(config.model, speed, source, config.run.recompute)


def measure_speed(
    config: Config, micro_tokens: int, shapes: Collection[StepShape], limit: float = LIMIT
) -> Speed:
    """Return the speed of steps of these shapes (rows, length), measured in about `limit` seconds.

    The steps are the trainer's own, on random tokens and without a rate; nothing is written to
    disk. Where time is short, fewer shapes are tried and then smaller micro-batches. A model that
    is too large even for that is not built: its speed is a share of this machine's matrix products.
    Raises SettingError for a missing vocabulary.
    """
    config, _ = decided(config)
    context = DistributedContext(device_here(config.run.device), config.run.precision)
    untried = product_speed(config)
    if memory_of(config, micro_tokens) > memory_limit(context.device):
        return replace(untried, source=f"{untried.source}: too large to be tried")
    trials = _trials(config.model, shapes, micro_tokens, limit * untried.flops_per_second)
    if trials is None:
        return replace(untried, source=f"{untried.source}: too slow to be tried")
    chosen, tried_tokens = trials
    step_seconds = real_steps(config, tried_tokens, max(rows for rows, _ in chosen), context)
    measured = speed_from(config.model, tried_tokens, chosen, step_seconds, limit)
    return replace(measured, micro_tokens=micro_tokens)


def _trials(
    model: Model, shapes: Collection[StepShape], micro_tokens: int, work: float
) -> tuple[list[StepShape], int] | None:
    """Return the shapes to try and the tokens of a micro-batch that `work` operations allow."""
    longest = max(length for _, length in shapes)
    halves = [micro_tokens >> power for power in range(micro_tokens.bit_length())]
    sizes = [size for size in halves if size >= longest]
    for count, size in ((SHAPES, micro_tokens), *((FEW_SHAPES, size) for size in sizes)):
        chosen = shapes_to_try(shapes, size, count)
        first_parts = (_part(rows, length, size, 1) for rows, length in chosen)
        if LEAST * sum(cost.flops(model, *first) for first in first_parts) <= work:
            return chosen, size
    return None


def speed_from(
    model: Model,
    micro_tokens: int,
    shapes: Sequence[StepShape],
    step_seconds: TimedStep,
    limit: float = LIMIT,
) -> MeasuredSpeed:
    """Return the speed that `step_seconds` shows at `shapes`, each tried for its part of `limit`.

    Of a step with many micro-batches so many are tried as there is time for.
    """
    one = _repeated(step_seconds, 1, 1, 1)
    each = max(0.0, _repeated(step_seconds, SMALL_BATCHES, 1, 1) - one) / (SMALL_BATCHES - 1)
    update = max(0.0, one - each)
    tried_shapes = []
    for shape in shapes:
        tried, seconds = _tried(shape, micro_tokens, step_seconds, limit / len(shapes))
        beside = update + accumulation_steps(tried[0], 1, tried[1], micro_tokens) * each
        arithmetic = max(seconds - beside, LEAST_SHARE * seconds)
        per_flop = arithmetic / cost.flops(model, *tried)
        tried_shapes.append(TriedShape(_place(*shape, micro_tokens), per_flop))
    in_order = tuple(sorted(tried_shapes, key=lambda shape: shape.place))
    return MeasuredSpeed(model, micro_tokens, micro_tokens, update, each, in_order)


def _repeated(step_seconds: TimedStep, *step: int) -> float:
    step_seconds(*step)  # the first of a shape allocates
    return median(step_seconds(*step) for _ in range(LEAST))


def _tried(
    shape: StepShape, micro_tokens: int, step_seconds: TimedStep, share: float
) -> tuple[StepShape, float]:
    """Return the part of the step that was tried, and the median of its seconds."""
    first = _part(*shape, micro_tokens, 1)
    one_batch = step_seconds(*first, micro_tokens)
    if one_batch > share:
        return first, one_batch
    # Also warmed up by that micro-batch, whatever the part.
    part = _part(*shape, micro_tokens, int(share / one_batch) // LEAST)
    seconds = [step_seconds(*part, micro_tokens)]
    while len(seconds) < REPEATS and one_batch + sum(seconds) + seconds[-1] < share:
        seconds.append(step_seconds(*part, micro_tokens))
    return part, median(seconds)


def _part(rows: int, length: int, micro_tokens: int, wanted: int) -> StepShape:
    """Return the shape of `wanted` micro-batches of a step, at least one, at most all it has."""
    count = accumulation_steps(rows, 1, length, micro_tokens)
    return max(1, rows * min(max(1, wanted), count) // count), length


def _place(rows: int, length: int, micro_tokens: int) -> float:
    """Return the logarithm of x: the mean tokens of a micro-batch, times the length."""
    count = accumulation_steps(rows, 1, length, micro_tokens)
    return float(np.log(rows * length / count * length))


def shapes_to_try(
    shapes: Collection[StepShape], micro_tokens: int, count: int = SHAPES
) -> list[StepShape]:
    """Return at most `count` shapes, spread from the smallest micro-batches to the largest."""
    places = {shape: _place(*shape, micro_tokens) for shape in shapes}
    wanted = np.linspace(min(places.values()), max(places.values()), count)
    nearest = (min(places, key=lambda shape: abs(places[shape] - place)) for place in wanted)
    return list(dict.fromkeys(nearest))


def real_steps(
    config: Config, micro_tokens: int, rows: int, context: DistributedContext
) -> TimedStep:
    """Return what trains one step of a shape, of at most `rows` rows, and gives its seconds."""
    store = random_store(config.model, rows)
    # Parts of a step may be no whole sequences, and what they read takes no time.
    changes = {"budget": {"tokens": MOST}, "batch": {"leftovers": "requeue"}}
    endless = settings.with_overrides(config, changes)
    trainer = Trainer(endless, store, context, micro_tokens)
    warm(trainer)

    def step_seconds(rows: int, length: int, micro_tokens: int) -> float:
        began, now = time.perf_counter(), trainer.train_state
        # Without a rate the weights stay as they are drawn, and no number runs away.
        plan = StepPlan(rows, length, learning_rate=0.0)
        step = trainer.inputs.stream.planned(plan, StreamState(now.counters, now.ledger))
        with no_more_graphs(trainer):
            trainer.train_on(step, micro_tokens)
        return time.perf_counter() - began

    return step_seconds


def random_store(model: Model, rows: int) -> Store:
    """Return a store in memory whose epoch is at least two steps of `rows` rows, or very long."""
    assert model.vocabulary is not None
    sequences = min(2 * rows, MOST_RANDOM // model.length + 1)
    drawn = np.random.default_rng(0).integers(model.vocabulary, size=sequences * model.length + 1)
    tokens = drawn.astype(np.uint32)
    # There are no files for a manifest to speak of, and a step asks for none.
    only: dict[str, Any] = {"separator": 0}
    return Store(Path(), Manifest.model_construct(**only), tokens, tokens[:0])


def _matrix_product_peak(
    context: DistributedContext, size: int = 1024, seconds: float = 0.5
) -> float:
    """Return the FLOP/s of matrix products on a device, in the precision of a forward pass."""
    matrix = torch.randn(size, size, device=context.device, dtype=context.dtype)
    with context.autocast():
        torch.mm(matrix, matrix)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            torch.mm(matrix, matrix)[0, 0].item()  # which waits for a GPU to be done
            count += 1
    return 2.0 * size**3 * count / (time.perf_counter() - began)
