"""The tokens of a micro-batch that fit into memory, tried on a GPU and estimated on a CPU."""

import torch

from lengthen.config.load import with_overrides
from lengthen.config.schema import Config
from lengthen.config.values import MOST
from lengthen.data.loader import MicroBatch
from lengthen.data.store import Store
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import (
    cpu_memory_limit,
    fit_check,
    free_memory,
    is_out_of_memory,
    micro_tokens_within,
)
from lengthen.model.optim import clip, update
from lengthen.training.trainer import Trainer


def with_micro_tokens(
    config: Config, store: Store, context: DistributedContext
) -> tuple[Config, int]:
    """Return the configuration with a number for `batch.micro_tokens`, and that number."""
    size = choose_micro_tokens(config, store, context)
    return with_overrides(config, {"batch": {"micro_tokens": size}}), size


def choose_micro_tokens(config: Config, store: Store, context: DistributedContext) -> int:
    """Return the tokens of a micro-batch: the setting, or what fits on every rank.

    Raises MemoryLimitError where not one row fits.
    """
    if config.batch.micro_tokens != "auto":
        return config.batch.micro_tokens
    if context.device.type == "cpu":
        size = micro_tokens_within(config, cpu_memory_limit(), context.world_size)
        return context.all_reduce_min(size)
    length = config.model.length
    whole = -(-config.batch.rows // context.world_size) * length
    return fit_check(whole, length, lambda size: trial_fits(config, store, context, size))


def trial_fits(config: Config, store: Store, context: DistributedContext, size: int) -> bool:
    """Try a full-length micro-batch and an update on a trainer of its own; all ranks agree."""
    fits = True
    alone = DistributedContext(context.device, context.precision)
    try:
        # Compiled it takes less memory, and for some seconds longer.
        changes = {"budget": {"tokens": MOST}, "run": {"compile": "off"}}
        endless = with_overrides(config, changes)
        try_micro_batch(Trainer(endless, store, alone, size))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    free_memory(context.device)
    return not context.any_rank(not fits)


def try_micro_batch(trainer: Trainer) -> None:
    """Train on the largest micro-batch, gradients and moments in memory; spoils the weights."""
    length, size = trainer.config.model.length, trainer.micro_tokens
    tokens = torch.zeros((size // length, length), dtype=torch.int64, device=trainer.context.device)
    part = MicroBatch(tokens, tokens, length, 1.0)
    sides = None, None if trainer.inputs.separator is None else tokens
    with trainer.context.keeps_casts():
        loss = trainer.backward(part, 1 / size, *sides)
    update(trainer.optimizer, torch.isfinite(loss))
    with trainer.context.keeps_casts():
        # Over the gradients that are there, as in a step of several micro-batches.
        trainer.backward(part, 1 / size, *sides)
    clip(trainer.model.parameters(), trainer.config.optimizer.clip)
