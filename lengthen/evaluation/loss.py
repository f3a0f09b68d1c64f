"""Validation loss at full length, and the perplexity that follows from it."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lengthen.distributed.context import DistributedContext
from lengthen.distributed.wrap import reshard
from lengthen.util import faults

Tokens = np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]


def sequences_in(tokens: Tokens, full_length: int, wanted: int) -> int:
    """Return how many full-length sequences about `wanted` tokens are, at least one if one fits."""
    return min(max(1, wanted // full_length), max(0, len(tokens) - 1) // full_length)


def validation_loss(
    module: nn.Module,
    tokens: Tokens,
    *,
    sequences: int,
    full_length: int,
    length: int | None = None,
    rows: int,
    context: DistributedContext,
    stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """Return the mean loss in nats per token over the first `sequences` of `tokens`.

    Of each sequence the first `length` tokens are read, all of them where it is None. Each rank
    reads its share, `rows` sequences a pass, dropout off. None where `stop` said so between two
    passes, on any rank. Nothing here touches random state, so training goes on as if it had not
    been evaluated.
    """
    length = length or full_length
    mine = range(
        sequences * context.rank // context.world_size,
        sequences * (context.rank + 1) // context.world_size,
    )
    total = torch.zeros((), dtype=context.sum_dtype, device=context.device)
    stopped = False
    was_training = module.training
    module.eval()
    with torch.no_grad(), context.autocast():
        # As many passes on every rank: sharded, each of them is a meeting.
        for number in range(-(-_most(sequences, context.world_size) // rows)):
            faults.inject("eval")
            stopped = context.any_rank(stop())
            if stopped:
                break
            share = mine[number * rows : (number + 1) * rows]
            batch = fronts(tokens, share or range(1), full_length, length).to(context.device)
            loss = module(batch[:, :-1], batch[:, 1:])
            total += loss if share else 0.0
    reshard(module)
    module.train(was_training)
    return None if stopped else float(context.all_reduce_sum(total)) / (sequences * length)


def _most(sequences: int, world_size: int) -> int:
    """Return the largest share of a rank."""
    return -(-sequences // world_size)


def fronts(tokens: Tokens, sequences: range, full_length: int, length: int) -> Tensor:
    """Return the fronts of sequences, and the token behind each: (rows, length + 1) int64."""
    starts = np.asarray(sequences) * full_length
    window = starts[:, None] + np.arange(length + 1)
    return torch.from_numpy(tokens[window].astype(np.int64))


def perplexity(loss: float) -> float:
    """Return exp(loss); infinite where that is above what a float holds."""
    return math.exp(loss) if loss < 700 else math.inf
