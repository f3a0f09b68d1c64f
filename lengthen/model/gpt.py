"""The GPT that lengthen trains: the GPT-2 and GPT-3 family.

    x  = tokens[inputs] + positions[:length]
    x += out(attention(norm(x)));  x += down(gelu(up(norm(x))))        for each of the layers
    logits = norm(x) @ tokens.T

Learned positions, LayerNorm before each branch, GELU in its tanh form, biases, tied embeddings,
scaled residual initialisation (Radford et al. 2019, section 2.3; Brown et al. 2020, section 2.1).
With rotary positions there is no table: each attention turns its queries and keys. Any length up
to the full one goes through the same code, and nothing here remembers the last one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lengthen.config.schema import Model, Positions
from lengthen.model.attention import (
    Attention,
    KeysAndValues,
    Reading,
    Rotation,
    largest_logit,
    rotation_at,
)
from lengthen.model.loss import summed_loss
from lengthen.model.shards import unshard


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

    def __init__(self, width: int, heads: int, dropout: float, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout, qk_norm=qk_norm)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = Perceptron(width, dropout)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, reading: Reading | None = None
    ) -> Tensor:
        """Map (rows, length, width) to the same shape."""
        x = x + self.attention(self.attention_norm(x), rotation, reading)
        stream: Tensor = x + self.perceptron(self.perceptron_norm(x))
        return stream

    @torch.no_grad()
    def largest_logit(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        """Return the largest attention logit that the forward pass of `x` has: 0-d."""
        unshard(self)
        query, key, _ = self.attention.split(self.attention_norm(x), rotation)
        with torch.autocast(x.device.type, enabled=False):
            return largest_logit(query, key)


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
        positions: Positions = "learned",
        rope_theta: float = 10_000.0,
        qk_norm: bool = False,
        z_loss: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.length = length  # full length L; shorter inputs are as welcome
        self.dropout = dropout
        self.recompute = recompute  # layers keep their input alone for the backward pass
        self.init_std = init_std
        self.watched: int | None = None  # layer whose largest logit each forward pass finds
        self.largest_logit: Tensor | None = None  # which the last one found
        self.z_loss = z_loss  # weight of log(Z)^2 in the gradient
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width) if positions == "learned" else None
        self.head_width, self.rope_theta = width // heads, rope_theta
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, qk_norm=qk_norm) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    @classmethod
    def of(cls, shape: Model, *, layers: int | None = None, recompute: bool = False) -> "GPT":
        """Return the model of a configuration whose vocabulary is known, or some of its layers."""
        assert shape.vocabulary is not None
        return cls(
            layers=layers or shape.layers,
            width=shape.width,
            heads=shape.heads,
            length=shape.length,
            vocabulary=shape.vocabulary,
            dropout=shape.dropout,
            init_std=shape.init_std,
            positions=shape.positions,
            rope_theta=shape.rope_theta,
            qk_norm=shape.qk_norm,
            z_loss=shape.z_loss,
            recompute=recompute,
        )

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

    def forward(self, inputs: Tensor, targets: Tensor, starts: Tensor | None = None) -> Tensor:
        """Return the sum of the cross-entropies in nats: float32, or float64 for a float64 model.

        Its gradient has that of the z-loss in it, where there is one; its value never. Inputs and
        targets are (rows, length) int64 for any length up to the full one. `starts` (rows,) int64
        are the positions of each row's first token; None: all begin at 0.
        """
        hidden = self.hidden(inputs, starts).flatten(0, 1)
        return summed_loss(hidden, self.tokens.weight, targets.flatten(), self.z_loss)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return (rows, length, vocabulary) for inputs (rows, length) int64."""
        return functional.linear(self.hidden(inputs), self.tokens.weight)

    def hidden(self, inputs: Tensor, starts: Tensor | None = None) -> Tensor:
        """Return what the logits are read from: (rows, length, width)."""
        positions = None
        if starts is not None:
            positions = starts[:, None] + torch.arange(inputs.shape[1], device=inputs.device)
        x, rotation = self._embedded(inputs, positions)
        x = functional.dropout(x, self.dropout, self.training)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            if number == self.watched:
                self.largest_logit = block.largest_logit(x, rotation)
            if self.recompute and torch.is_grad_enabled():
                # Without dropout a layer draws no random numbers, whose state would be restored.
                random = self.dropout > 0
                x = checkpoint(block, x, rotation, use_reentrant=False, preserve_rng_state=random)
            else:
                x = block(x, rotation)
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
        x, rotation = self._embedded(inputs, positions)
        for block, reading in zip(self.blocks, readings, strict=True):
            x = block(x, rotation, reading)
        return self.norm(x), tuple(reading.kept for reading in readings if reading.kept)

    def _embedded(self, inputs: Tensor, positions: Tensor | None) -> tuple[Tensor, Rotation | None]:
        """Return the embeddings and, for rotary positions, the rotation that every layer needs.

        `positions` (rows, length) int64; None: every row begins at 0.
        """
        x, length = self.tokens(inputs), inputs.shape[1]
        if self.positions is None:
            if positions is None:
                positions = torch.arange(length, device=inputs.device)[None]
            dtype = self.tokens.weight.dtype
            return x, rotation_at(positions, self.head_width, self.rope_theta, dtype)
        # A slice where it can be: the gradients of looked-up rows are added up in another order.
        own = self.positions.weight[:length] if positions is None else self.positions(positions)
        return x + own, None
