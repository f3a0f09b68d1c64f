"""The GPT that lengthen trains: the GPT-2 and GPT-3 family in one file.

    x  = tokens[inputs] + positions[:length]
    x += out(attention(norm(x)));  x += down(gelu(up(norm(x))))        for each of the layers
    logits = norm(x) @ tokens.T

Learned positions, LayerNorm before each branch, GELU in its tanh form, biases, tied embeddings,
scaled residual initialisation (Radford et al. 2019, section 2.3; Brown et al. 2020, section 2.1).
Any length up to the full one goes through the same code, and nothing here remembers the last one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK = 512  # tokens whose logits exist at a time: with more they fall out of a CPU's cache
KeysAndValues = tuple[Tensor, Tensor]  # each (rows, heads, tokens, head size)


@dataclass
class Reading:
    """What a layer reads beside plain rows; training never has one.

    `mask` (rows or 1, 1, length, earlier + length) bool is true where a token may read another.
    `earlier` is what was read before; one row of it serves all. With `keeps`, `kept` is then both.
    """

    mask: Tensor
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
    """Causal self-attention: every token reads itself and those before it in its row."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, reading: Reading | None = None) -> Tensor:
        """Map (rows, length, width) to the same shape."""
        # (rows, heads, length, head size) as views: splitting first saves a copy in the backward.
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        mask = None  # always in training: one would rule out the kernels without length * length
        if reading:
            mask = reading.mask
            key, value = reading.joined(key, value)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, dropout_p=dropout
        )
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        return functional.dropout(mixed, self.dropout, self.training)


class Perceptron(nn.Module):
    """Two layers on each token by itself, four times as wide between them."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (rows, length, width) to the same shape."""
        x = self.down(functional.gelu(self.up(x), approximate="tanh"))
        return functional.dropout(x, self.dropout, self.training)


class Block(nn.Module):
    """One layer: attention, then perceptron, each added to what it read."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = Perceptron(width, dropout)

    def forward(self, x: Tensor, reading: Reading | None = None) -> Tensor:
        """Map (rows, length, width) to the same shape."""
        x = x + self.attention(self.attention_norm(x), reading)
        stream: Tensor = x + self.perceptron(self.perceptron_norm(x))
        return stream


class GPT(nn.Module):
    """A GPT-2 or GPT-3 of any shape; call `initialise` before training."""

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        heads: int,
        length: int,
        vocabulary: int,
        dropout: float = 0.0,
        init_std: float = 0.02,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.length = length  # full length L; shorter inputs are as welcome
        self.dropout = dropout
        self.recompute = recompute  # layers keep their input alone for the backward pass
        self.init_std = init_std
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the initial weights from `generator` alone, alike on every device and precision.

        Matrices from N(0, init_std), those that write into the residual stream from
        N(0, init_std / sqrt(2 layers)); biases 0, gains 1.
        """
        residual_std = self.init_std / (2 * len(self.blocks)) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
                continue
            std = residual_std if name.endswith(("out.weight", "down.weight")) else self.init_std
            # Drawn where the generator lives: a GPU's own numbers would make another model.
            drawn = torch.empty(parameter.shape, device=generator.device)
            parameter.copy_(drawn.normal_(0.0, std, generator=generator))

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the losses in nats: float32, or float64 for a float64 model.

        Inputs and targets are (rows, length) int64 for any length up to the full one.
        """
        hidden = self.hidden(inputs).flatten(0, 1)
        return summed_loss(hidden, self.tokens.weight, targets.flatten())

    def logits(self, inputs: Tensor) -> Tensor:
        """Return (rows, length, vocabulary) for inputs (rows, length) int64."""
        return functional.linear(self.hidden(inputs), self.tokens.weight)

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return what the logits are read from: (rows, length, width)."""
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        x = functional.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                # Without dropout a layer draws no random numbers, whose state would be restored.
                random = self.dropout > 0
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=random)
            else:
                x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def read(
        self,
        inputs: Tensor,
        positions: Tensor,
        mask: Tensor,
        earlier: tuple[KeysAndValues, ...] = (),
        *,
        keeps: bool = False,
    ) -> tuple[Tensor, tuple[KeysAndValues, ...]]:
        """Return the hidden states (rows, length, width) of rows that are no plain texts.

        Inputs and positions are (rows, length) int64, `mask` is that of `Reading`. `earlier` and,
        with `keeps`, the second value have the keys and values of each layer: what this call gives
        back is the next one's `earlier`. The model must be in evaluation mode.
        """
        assert not self.training
        before = earlier or [None] * len(self.blocks)
        readings = [Reading(mask, old, keeps=keeps) for old in before]
        x = self.tokens(inputs) + self.positions(positions)
        for block, reading in zip(self.blocks, readings, strict=True):
            x = block(x, reading)
        return self.norm(x), tuple(reading.kept for reading in readings if reading.kept)


def summed_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the cross-entropies of `hidden @ weight.T`, of which chunks exist alone.

    `hidden` (tokens, width), `weight` (vocabulary, width), `targets` (tokens,) int64. Under
    autocast the products are in its precision, and all that is summed in the weight's.
    """
    device = hidden.device.type
    low = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if low else weight.dtype
    return _apply(hidden, weight, targets, dtype, torch.is_grad_enabled())


class _SummedLoss(torch.autograd.Function):
    """Loss and gradients of a chunk of tokens while its logits exist, so that none are kept.

    `functional.linear_cross_entropy` does the same, but sums in bfloat16 where the input is: with
    its default options a mean loss of 9.04 comes out as 8.5. The way around that works the logits
    out twice and is slower (`benchmarks.loss` prints both).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, train: bool
    ) -> Tensor:
        inputs, table = hidden.to(dtype), weight.to(dtype)
        loss = weight.new_zeros(())
        to_hidden, to_weight = torch.empty_like(inputs), torch.zeros_like(weight)
        for first in range(0, len(inputs), CHUNK):
            rows = slice(first, first + CHUNK)
            log_p = torch.log_softmax(inputs[rows] @ table.T, dim=1, dtype=weight.dtype)
            target = targets[rows, None]
            loss -= log_p.gather(1, target).sum()
            if not train:
                continue
            # d loss / d logits = p - 1[target], written over log p: the largest tensor here.
            slope = log_p.exp_().scatter_add_(1, target, log_p.new_full(target.shape, -1.0))
            slope = slope.to(dtype)
            torch.mm(slope, table, out=to_hidden[rows])
            if dtype == weight.dtype:
                to_weight.addmm_(slope.T, inputs[rows])
            else:
                to_weight += slope.T @ inputs[rows]
        ctx.save_for_backward(to_hidden, to_weight)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden, to_weight = ctx.saved_tensors
        return to_hidden * scale, to_weight * scale, None, None, None


_apply: Callable[[Tensor, Tensor, Tensor, torch.dtype, bool], Tensor] = _SummedLoss.apply
