"""Validation loss at full length, and the perplexity that follows from it."""

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from lengthen.data.documents import documents_in
from lengthen.data.token_row import Tokens
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.wrap import reshard


def sequences_in(tokens: Tokens, full_length: int, count: int) -> int:
    """Return how many full-length sequences about `count` tokens are, at least one if one fits."""
    return min(max(1, count // full_length), max(0, len(tokens) - 1) // full_length)


def validation_loss(
    module: nn.Module,
    tokens: Tokens,
    *,
    sequences: int,
    full_length: int,
    length: int | None = None,
    separator: int | None = None,
    rows: int,
    context: DistributedContext,
    stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """Return the mean loss in nats per token over the first `sequences` of `tokens`.

    Of each sequence the first `length` tokens are read, all of them where it is None; with a
    `separator` a token reads its own document alone. Each rank reads its share in micro-batches of
    `rows` sequences, dropout off. None where `stop` returned true after a micro-batch, on any rank.
    No random state is read or changed, so training continues as if it had not been evaluated.
    """
    length = length or full_length
    rank, world_size = context.rank, context.world_size
    mine = range(sequences * rank // world_size, sequences * (rank + 1) // world_size)
    largest_share = -(-sequences // world_size)
    total = torch.zeros((), dtype=context.sum_dtype, device=context.device)
    stopped = False
    with torch.no_grad(), context.autocast(), ExitStack() as stack:
        # Also where memory runs out: the trainer tries again, and trains on.
        stack.callback(module.train, module.training)
        module.eval()
        # As many micro-batches on every rank: with FSDP each forward pass is a collective.
        for number in range(-(-largest_share // rows)):
            share = mine[number * rows : (number + 1) * rows]
            batch = fronts(tokens, share or range(1), full_length, length)
            documents = documents_in(batch[:, :-1], separator, context.device)
            batch = batch.to(context.device)
            loss = module(batch[:, :-1], batch[:, 1:], None, documents)
            total += loss if share else 0.0
            stopped = context.any_rank(stop())
            if stopped:
                break
    reshard(module)
    return None if stopped else float(context.all_reduce_sum(total)) / (sequences * length)


def fronts(tokens: Tokens, sequences: range, full_length: int, length: int) -> Tensor:
    """Return the fronts of sequences, and the token after each: (rows, length + 1) int64."""
    starts = np.asarray(sequences) * full_length
    window = starts[:, None] + np.arange(length + 1)
    return torch.from_numpy(tokens[window].astype(np.int64))
