"""The parts of the GPT: norms, attention with rotary embeddings, the perceptron, the layer."""

import math
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthen.config.model import Model
from lengthen.model.mask import Mask, attend
from lengthen.model.shards import unshard

KeysAndValues = tuple[Tensor, Tensor]  # each (rows, heads, tokens, head size)
BLOCK = 256  # queries whose logits are looked through at a time
LOGITS = 2**22  # about how many are
Rotation = tuple[Tensor, Tensor]  # cosine and sine, each (rows or 1, 1, length, head size / 2)


def rotation_at(positions: Tensor, size: int, theta: float, dtype: torch.dtype) -> Rotation:
    """Return the rotary embedding of `positions` (rows or 1, length) for heads of an even `size`.

        angle_j(p) = p * theta^(-2 j / size)                            j = 0 ... size / 2 - 1

    (Su et al., arXiv:2104.09864, section 3.2.2.) The angles are of `dtype`, which no autocast
    lowers: bfloat16 cannot tell two positions beyond 256 apart.
    """
    powers = torch.arange(0, size, 2, device=positions.device, dtype=dtype) / size
    angles = positions.to(dtype)[:, None, :, None] * theta**-powers
    return angles.cos(), angles.sin()


def rotated(heads: Tensor, rotation: Rotation) -> Tensor:
    """Turn element j of each head's first half and of its second half by angle j, as one pair.

    Llama and GPT-NeoX pair the halves so; the paper pairs neighbours, which is the same up to the
    order of a head's elements.
    """
    (cos, sin), (first, second) = rotation, heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def largest_logit(query: Tensor, key: Tensor, documents: Tensor | None = None) -> Tensor:
    """Return the largest  q k / sqrt(size)  of any row, head and causal pair: 0-d.

    Both are (rows, heads, length, size). Worked out in blocks, in float32 at least. Where
    `documents` (rows, length) are given, of the pairs within one alone.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    if documents is not None:
        documents = documents.repeat_interleave(query.shape[1], 0)
    query, key = (part.flatten(0, 1).to(dtype) for part in (query, key))
    length, size = query.shape[1:]
    parts = -(-len(query) * min(length, BLOCK) * length // LOGITS)
    later = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=query.device).triu(1)
    largest = []
    own = repeat(None) if documents is None else documents.chunk(parts)
    for queries, keys, numbers in zip(query.chunk(parts), key.chunk(parts), own, strict=False):
        for first in range(0, length, BLOCK):
            logits = queries[:, first : first + BLOCK] @ keys[:, : first + BLOCK].mT
            count = logits.shape[1]
            logits[:, :, first:].masked_fill_(later[:count, :count], -torch.inf)
            if numbers is not None:
                other = numbers[:, first : first + count, None] != numbers[:, None, : first + count]
                logits.masked_fill_(other, -torch.inf)
            largest.append(logits.amax())
    return torch.stack(largest).amax() / math.sqrt(size)


def norm_of(shape: Model) -> nn.LayerNorm | nn.RMSNorm:
    """Return a norm over the width: LayerNorm, or RMSNorm, which neither centres nor has a bias.

    gain * x / sqrt(mean(x^2) + epsilon)                        (arXiv:1910.07467, section 3)
    """
    if shape.norm == "rms":
        return nn.RMSNorm(shape.width, eps=shape.norm_eps)
    return nn.LayerNorm(shape.width, eps=shape.norm_eps, bias=shape.bias)


@dataclass
class Reading:
    """What a layer reads beside plain rows; training has one for rows of several documents.

    `mask` is a document mask, or (rows or 1, 1, length, earlier + length) bool: true where a token
    may read another. `earlier` is what was read before; one row of it serves all. With `keeps`,
    `kept` is then both.
    """

    mask: Mask
    earlier: KeysAndValues | None = None
    keeps: bool = False
    kept: KeysAndValues | None = None

    def joined(self, key: Tensor, value: Tensor) -> KeysAndValues:
        """Return the keys and values of the earlier tokens, followed by the given ones."""
        if self.earlier:
            old_key, old_value = (old.expand(len(key), -1, -1, -1) for old in self.earlier)
            key, value = torch.cat([old_key, key], dim=2), torch.cat([old_value, value], dim=2)
        if self.keeps:
            self.kept = key, value
        return key, value


class Attention(nn.Module):
    """Causal self-attention: every token reads itself and those before it in its row.

    With fewer heads of keys and values, neighbouring heads of queries share one (Ainslie et al.,
    arXiv:2305.13245, section 2.2).

    With `qk_norm` each head's queries and keys are divided by their root mean square and multiplied
    by a gain that the heads share, before any rotation: the norm without bias and centring of
    ViT-22B (arXiv:2302.05442, section 2), per head as Qwen3 has it (arXiv:2505.09388, section 2).
    """

    def __init__(self, shape: Model) -> None:
        super().__init__()
        width, queries = shape.width, shape.heads * shape.head_size
        self.heads, self.key_heads = shape.heads, shape.key_heads
        self.dropout = shape.dropout
        self.query_norm, self.key_norm = (
            nn.RMSNorm(shape.head_size, eps=1e-6) if shape.qk_norm else None for _ in range(2)
        )
        self.widths = queries, *2 * [shape.key_heads * shape.head_size]  # of all heads together
        self.qkv = nn.Linear(width, sum(self.widths), bias=shape.bias)
        self.out = nn.Linear(queries, width, bias=shape.bias)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, reading: Reading | None = None
    ) -> Tensor:
        """Map (rows, length, width) to the same shape."""
        query, key, value = self.split(x, rotation)
        mask = None  # where it can be: one would rule out the kernels without length * length
        if reading:
            mask = reading.mask
            key, value = reading.joined(key, value)
        dropout = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, mask, dropout)
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        return functional.dropout(mixed, self.dropout, self.training)

    def split(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values as they meet: each (rows, heads, length, head size)."""
        counts = self.heads, self.key_heads, self.key_heads
        # As views: splitting first saves a copy in the backward.
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part, heads in zip(self.qkv(x).split(self.widths, dim=-1), counts, strict=True)
        )
        if self.query_norm and self.key_norm:
            # In the gain's precision, which is the weights', whatever autocast gave.
            dtype = self.query_norm.weight.dtype
            query, key = self.query_norm(query.to(dtype)), self.key_norm(key.to(dtype))
        if rotation:
            query, key = rotated(query, rotation), rotated(key, rotation)
        if shared := self.heads // self.key_heads - 1:
            # Written out: not every kernel without length * length can share heads.
            key, value = (part.repeat_interleave(shared + 1, dim=1) for part in (key, value))
        return query.to(value.dtype), key.to(value.dtype), value


class Perceptron(nn.Module):
    """down(gelu(up(x)))  or, with a gate,  down(silu(gate(x)) * up(x))  of each token by itself.

    GELU is in its tanh form. The second is SwiGLU (Shazeer, arXiv:2002.05202, section 2).
    """

    def __init__(self, shape: Model) -> None:
        super().__init__()
        width, inner, bias = shape.width, shape.inner_width, shape.bias
        self.dropout = shape.dropout
        self.gate = nn.Linear(width, inner, bias=bias) if shape.mlp == "swiglu" else None
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (rows, length, width) to the same shape."""
        if self.gate is None:
            inner = functional.gelu(self.up(x), approximate="tanh")
        else:
            inner = functional.silu(self.gate(x)) * self.up(x)
        return functional.dropout(self.down(inner), self.dropout, self.training)


class Block(nn.Module):
    """One layer: attention, then perceptron, each added to what it read."""

    def __init__(self, shape: Model) -> None:
        super().__init__()
        self.attention_norm = norm_of(shape)
        self.attention = Attention(shape)
        self.perceptron_norm = norm_of(shape)
        self.perceptron = Perceptron(shape)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, reading: Reading | None = None
    ) -> Tensor:
        """Map (rows, length, width) to the same shape."""
        x = x + self.attention(self.attention_norm(x), rotation, reading)
        stream: Tensor = x + self.perceptron(self.perceptron_norm(x))
        return stream

    @torch.no_grad()
    def largest_logit(
        self, x: Tensor, rotation: Rotation | None, documents: Tensor | None = None
    ) -> Tensor:
        """Return the largest attention logit that the forward pass of `x` has: 0-d."""
        unshard(self)
        query, key, _ = self.attention.split(self.attention_norm(x), rotation)
        with torch.autocast(x.device.type, enabled=False):
            return largest_logit(query, key, documents)
