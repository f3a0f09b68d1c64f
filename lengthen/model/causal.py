"""Causal attention in bfloat16 on a processor, by plain products of a block of queries at a time.

    weights = softmax(q k / sqrt(size));  mixed = weights v         of a block and the keys up to it

torch's own kernel spends most of its time beside the products (`benchmarks.shapes`). A product of
bfloat16 tensors is rounded to bfloat16, by which a large logit would lose the digits that weigh
most: so the largest one of a row is found first, and taken away inside the product of a second one.
Nothing of all pairs is kept.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128  # queries
LENGTHS = range(129, 1025)  # of rows that are faster so, by `benchmarks.shapes`


def attend_causally(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the mixed values of bfloat16 tensors, all (rows, heads, length, size)."""
    with torch.autocast("cpu", enabled=False):
        mixed = _apply(*(part.flatten(0, 1) for part in (query, key, value)))
    return mixed.view(query.shape)


class _Blocks(torch.autograd.Function):
    """Over tensors (rows * heads, length, size)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed, largest = torch.empty_like(query), query.new_empty(*query.shape[:2], 1)
        for own, seen in _blocks(query.shape[1]):
            logits = _causal(torch.bmm(query[:, own], key[:, seen].mT))
            largest[:, own] = logits.amax(dim=-1, keepdim=True) * _scale(query)
            weights = _weights(query[:, own], key[:, seen], largest[:, own])
            mixed[:, own] = torch.bmm(weights, value[:, seen])
        ctx.save_for_backward(query, key, value, largest)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, largest = ctx.saved_tensors
        to_query = torch.empty_like(query)
        # In float32: the sums over all blocks.
        to_key, to_value = (torch.zeros_like(part, dtype=torch.float32) for part in (key, value))
        for own, seen in _blocks(query.shape[1]):
            weights = _weights(query[:, own], key[:, seen], largest[:, own])
            to_weights = torch.bmm(slope[:, own], value[:, seen].mT)
            to_logits = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_query[:, own] = torch.bmm(to_logits, key[:, seen])
            to_key[:, seen] += torch.bmm(to_logits.mT, query[:, own])
            to_value[:, seen] += torch.bmm(weights.mT, slope[:, own])
        scale = _scale(query)
        return to_query * scale, (to_key * scale).to(key.dtype), to_value.to(value.dtype)


def _blocks(length: int) -> Iterator[tuple[slice, slice]]:
    """Yield the queries of each block, and the keys that they may read."""
    for first in range(0, length, BLOCK):
        end = min(first + BLOCK, length)
        yield slice(first, end), slice(end)


def _weights(query: Tensor, key: Tensor, largest: Tensor) -> Tensor:
    logits = torch.baddbmm(-largest, query, key.mT, alpha=_scale(query))
    return torch.softmax(_causal(logits), dim=-1)


def _scale(query: Tensor) -> float:
    size: int = query.shape[-1]
    return 1 / math.sqrt(size)


def _causal(logits: Tensor) -> Tensor:
    """Mask the later keys of (..., queries, keys), in place; the last ones are the queries' own."""
    queries = logits.shape[1]
    later = torch.ones(queries, queries, dtype=torch.bool).triu(1)
    logits[:, :, -queries:].masked_fill_(later, -torch.inf)
    return logits


_apply: Callable[..., Tensor] = _Blocks.apply
