"""Attention within documents: what the layers share of a micro-batch, and the kernels for it."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from lengthen.model.causal import LONGEST, attend_causally

Mask = Tensor | BlockMask
NARROWEST = 16  # heads that FlexAttention has a kernel for
# Tokens of a row up to which PyTorch's kernel is faster in float32 than in bfloat16 on a processor,
# by `benchmarks.shapes`; with matrix units it has not been measured.
SHORT = 128


def reads_within(documents: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return (row, head, query, key) -> whether the token `query` of a row reads the token `key`.

    It does where that is no later one and `documents` (rows, length) has one number for both.
    """

    def reads(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[row, query] == documents[row, key])

    return reads


def document_mask(documents: Tensor, dtype: torch.dtype, size: int, dropout: float) -> Mask:
    """Return the mask of `documents` for attention in `dtype` with heads of `size`.

    FlexAttention's blocks on CUDA; elsewhere, and where it has no kernel (dropout, float64, narrow
    heads), what is added to the logits: 0 or minus infinity, (rows, 1, length, length) of `dtype`.
    Added numbers, since of booleans every layer would make, and keep, numbers of its own.
    """
    (rows, length), device = documents.shape, documents.device
    reads = reads_within(documents)
    if documents.is_cuda and not dropout and dtype != torch.float64 and size >= NARROWEST:
        blocks: BlockMask = _compiled(create_block_mask)(
            reads, rows, None, length, length, device=device
        )
        return blocks
    row, place = torch.arange(rows, device=device), torch.arange(length, device=device)
    may = reads(row[:, None, None], row, place[:, None], place)[:, None]
    return torch.zeros_like(may, dtype=dtype).masked_fill_(~may, -torch.inf)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, dropout: float) -> Tensor:
    """Return the mixed values, (rows, heads, length, head size); causal without a mask."""
    if isinstance(mask, BlockMask):
        # A compiled layer has it in its own graph.
        flex: Callable[..., Tensor] = flex_attention
        if not torch.compiler.is_compiling():
            flex = _compiled(flex_attention)
        return flex(query, key, value, block_mask=mask)
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        if mask is None and not dropout and key.shape[2] <= LONGEST:
            return attend_causally(query, key, value)
        if key.shape[2] <= SHORT:
            return _attend_widely(query, key, value, mask, dropout)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, dropout_p=dropout
    )


def _attend_widely(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """Attend in float32; a mask of booleans stays one."""
    wide = mask if mask is None or mask.dtype == torch.bool else mask.float()
    with torch.autocast("cpu", enabled=False):
        mixed = attend(query.float(), key.float(), value.float(), wide, dropout)
    return mixed.to(query.dtype)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)  # one graph for all rows and lengths
