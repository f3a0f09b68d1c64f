"""Compile what a run needs before its first step, so that no step of it waits for a compiler."""

import time
from contextlib import AbstractContextManager, nullcontext
from itertools import product

import torch

from lengthen.core.custom_pacing import Custom
from lengthen.core.loss_ratio import OBSERVED_SEQUENCES, PROBE_SEQUENCES
from lengthen.core.pacing import Adaptive
from lengthen.core.schedule import spans
from lengthen.data.loader import MicroBatch
from lengthen.data.stream import accumulation_steps
from lengthen.distributed.wrap import no_sync_before
from lengthen.evaluation.loss import sequences_in
from lengthen.training.trainer import Trainer

Shape = tuple[int, int]  # rows, length
FEW = 3  # rows of a micro-batch that stand for any number above one


def warm(trainer: Trainer) -> float:
    """Compile every graph of a run, on blank rows, and return the seconds; 0.0 where it has none.

    No state changes, and a run has the same graphs wherever it goes on from: it repeats its bits.
    """
    if trainer.config.run.compile == "off":
        return 0.0
    began = time.monotonic()
    torch.compiler.reset()  # what was compiled before would serve some shapes by other code
    devices = [trainer.context.device] if trainer.context.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for shape in representatives(trainer, trained_shapes(trainer)):
            _compile_for(trainer, shape, train=True)
        for shape in representatives(trainer, evaluated_shapes(trainer)):
            _compile_for(trainer, shape, train=False)
    trainer.model.zero_grad(set_to_none=True)
    return time.monotonic() - began


def no_more_graphs(trainer: Trainer) -> AbstractContextManager[object]:
    """Return the context of steps in which a shape without a graph is computed without one."""
    if trainer.config.run.compile == "off":
        return nullcontext()
    # torch passes the class off as a function.
    stance: AbstractContextManager[object] = torch.compiler.set_stance("eager_on_recompile")
    return stance


def trained_shapes(trainer: Trainer) -> set[Shape]:
    """Return the smallest and the largest micro-batch of each kind of step."""
    schedule, world_size, shapes = trainer.schedule, trainer.context.world_size, set[Shape]()
    full_length = schedule.full_length
    if isinstance(schedule.pacing, Custom):  # whose function is asked step by step
        return {(1, full_length), (FEW, full_length)}
    calms = (True, False) if isinstance(schedule.pacing, Adaptive) else (True,)
    for span in (span for calm in calms for span in spans(schedule, calm=calm)):
        count = accumulation_steps(span.rows, world_size, span.length, trainer.micro_tokens)
        parts = world_size * count
        shapes |= {(max(1, span.rows // parts), span.length), (-(-span.rows // parts), span.length)}
    return shapes


def evaluated_shapes(trainer: Trainer) -> set[Shape]:
    """Return the micro-batches of evaluations, probes and observations."""
    length, world_size = trainer.schedule.full_length, trainer.context.world_size
    sequences = trainer.config.evaluation.tokens // length, PROBE_SEQUENCES, OBSERVED_SEQUENCES
    rows, shapes = max(1, trainer.micro_tokens // length), set[Shape]()
    for count in sequences:
        ours = -(-sequences_in(trainer.store.valid, length, count * length) // world_size)
        shapes |= {(part, length) for part in (min(rows, ours), ours % rows) if part}
    return shapes


def representatives(trainer: Trainer, shapes: set[Shape]) -> list[Shape]:
    """Return the shortest and the longest shape for each graph: of one row or more, or one token.

    No two sizes are equal, nor equal to one of the model's: a graph would take them for one.
    """
    model, ends = trainer.config.model, dict[tuple[bool, bool], list[Shape]]()
    for rows, length in sorted(shapes, key=lambda shape: shape[1]):
        few = min(rows, FEW)
        taken = {few, model.width, model.head_size // 2, model.heads, model.key_heads}
        near = (*range(length, 1, -1), *range(length, model.length + 1))
        other = next((one for one in near if one not in taken), length) if length > 1 else 1
        first, *_ = (*ends.get((rows > 1, length > 1), []), (few, other))
        ends[rows > 1, length > 1] = [first, (few, other)]
    return list(dict.fromkeys(shape for pair in ends.values() for shape in pair))


def _compile_for(trainer: Trainer, shape: Shape, *, train: bool) -> None:
    """Take blank rows through the model, with all that may belong to rows of the run."""
    blanks = torch.zeros(shape, dtype=torch.int64, device=trainer.context.device)
    spread = train and trainer.config.model.positions_start == "spread"
    masks = trainer.inputs.separator is not None
    trainer.module.train(train)
    for sides in product((None, blanks[:, 0])[: 1 + spread], (None, blanks)[: 1 + masks]):
        if train:
            with no_sync_before(trainer.module, last=False), trainer.context.keeps_casts():
                trainer.backward(MicroBatch(blanks, blanks, shape[1], 1.0), 0.0, *sides)
        else:
            with torch.no_grad(), trainer.context.autocast():
                trainer.module(blanks, blanks, *sides)
    trainer.module.train()
