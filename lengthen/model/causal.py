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
LONGEST = 512  # tokens of a row that is faster so, by `benchmarks.shapes`


def attend_causally(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the mixed values of bfloat16 tensors, all (rows, heads, length, size)."""
    if torch.compiler.is_compiling():
        mixed: Tensor = _operator(query, key, value)[0]
        return mixed
    return _apply(query, key, value)


def _mix(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mixed values, and the largest logit of each query, (rows * heads, length, 1)."""
    shape = query.shape
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    mixed, largest = query.new_empty(query.shape), query.new_empty(*query.shape[:2], 1)
    with torch.autocast("cpu", enabled=False):
        for own, seen in _blocks(query.shape[1]):
            logits = _causal(torch.bmm(query[:, own], key[:, seen].mT))
            largest[:, own] = logits.amax(dim=-1, keepdim=True) * _scale(query)
            weights = _weights(query[:, own], key[:, seen], largest[:, own])
            mixed[:, own] = torch.bmm(weights, value[:, seen])
    return mixed.view(shape), largest


def _slopes(
    slope: Tensor, query: Tensor, key: Tensor, value: Tensor, largest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values from that of the mixed values."""
    shape = query.shape
    slope, query, key, value = (part.flatten(0, 1) for part in (slope, query, key, value))
    to_query = query.new_empty(query.shape)
    # In float32: the sums over all blocks.
    to_key, to_value = (part.new_zeros(part.shape, dtype=torch.float32) for part in (key, value))
    for own, seen in _blocks(query.shape[1]):
        weights = _weights(query[:, own], key[:, seen], largest[:, own])
        to_weights = torch.bmm(slope[:, own], value[:, seen].mT)
        to_logits = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_query[:, own] = torch.bmm(to_logits, key[:, seen])
        to_key[:, seen] += torch.bmm(to_logits.mT, query[:, own])
        to_value[:, seen] += torch.bmm(weights.mT, slope[:, own])
    scale = _scale(query)
    slopes = to_query * scale, (to_key * scale).to(key.dtype), to_value.to(value.dtype)
    return slopes[0].view(shape), slopes[1].view(shape), slopes[2].view(shape)


def _like(part: Tensor) -> Tensor:
    return part.new_empty(part.shape)


def _queries(query: Tensor) -> tuple[int, int, int]:
    return query.shape[0] * query.shape[1], query.shape[2], 1


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed, largest = _mix(query, key, value)
        ctx.save_for_backward(query, key, value, largest)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _slopes(slope, *ctx.saved_tensors)


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
    later = logits.new_ones((queries, queries), dtype=torch.bool).triu(1)
    logits[:, :, -queries:].masked_fill_(later, -torch.inf)
    return logits


_apply: Callable[..., Tensor] = _Blocks.apply

# The same as one operator of a compiled graph. Called by itself it would import the compiler.
_operator = torch.library.custom_op("lengthen::attend_causally", _mix, mutates_args=())
_back = torch.library.custom_op("lengthen::attend_causally_back", _slopes, mutates_args=())
_operator.register_fake(lambda query, *_: (_like(query), query.new_empty(_queries(query))))
_back.register_fake(lambda _, *parts: tuple(map(_like, parts[:3])))
_operator.register_autograd(
    lambda ctx, slope, _: _back(slope, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, output[1]),
)
