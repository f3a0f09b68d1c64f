"""The GPT that lengthen trains: GPT-2 and GPT-3 and, with other parts, Llama and Qwen3.

    x  = tokens[inputs] + positions[:length]
    x += attention(norm(x));  x += perceptron(norm(x))                 for each of the layers
    logits = norm(x) @ head.T

Learned positions, LayerNorm before each branch, GELU, biases, the embedding as the head, scaled
residual initialisation (Radford et al. 2019, section 2.3; Brown et al. 2020, section 2.1), if the
settings say nothing else. With rotary positions there is no table: each attention turns its queries
and keys. Any length up to the full one goes through the same code, and nothing here remembers the
last one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lengthen.config.model import Model
from lengthen.model.loss import product_dtype, summed_loss
from lengthen.model.mask import document_mask
from lengthen.model.parts import Block, KeysAndValues, Reading, Rotation, norm_of, rotation_at
from lengthen.util.errors import SettingError


class GPT(nn.Module):
    """The GPT of a configuration, or some of its layers; call `initialise` before training.

    With `recompute` layers keep their input alone for the backward pass. Raises SettingError where
    the vocabulary is missing.
    """

    def __init__(self, shape: Model, *, layers: int | None = None, recompute: bool = False) -> None:
        super().__init__()
        if shape.vocabulary is None:
            raise SettingError("model.vocabulary", "is missing; a token store gives it")
        self.shape = shape
        self.length = shape.length  # full length L; shorter inputs are as welcome
        self.recompute = recompute
        self.watched: int | None = None  # layer whose largest logit each forward pass finds
        self.largest_logit: Tensor | None = None  # which the last one found
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        learned = shape.positions == "learned"
        self.positions = nn.Embedding(shape.length, shape.width) if learned else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(layers or shape.layers))
        self.norm = norm_of(shape)
        tied = shape.tied
        self.head = None if tied else nn.Linear(shape.width, shape.vocabulary, bias=False)

    @property
    def output(self) -> Tensor:
        """What the logits are read with: (vocabulary, width), the embedding where it is tied."""
        return self.tokens.weight if self.head is None else self.head.weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the initial weights from `generator` alone, alike on every device and precision.

        Matrices from N(0, init_std), those that write into the residual stream from
        N(0, init_std / sqrt(2 layers)); biases 0, gains 1.
        """
        std = self.shape.init_std
        residual_std = std / (2 * len(self.blocks)) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
                continue
            is_residual = name.endswith(("out.weight", "down.weight"))
            # Drawn where the generator lives: a GPU's own numbers would make another model.
            drawn = torch.empty(parameter.shape, dtype=torch.float32, device=generator.device)
            parameter.copy_(
                drawn.normal_(0.0, residual_std if is_residual else std, generator=generator)
            )

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        starts: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return the sum of the cross-entropies in nats: float32, or float64 for a float64 model.

        Its gradient has that of the z-loss in it, where there is one; its value never. Inputs and
        targets are (rows, length) int64 for any length up to the full one. `starts` (rows,) int64
        are the positions of each row's first token; None: all begin at 0. A token reads those alone
        that have its own number in `documents` (rows, length) int64; None: all before it.
        """
        hidden = self.hidden(inputs, starts, documents).flatten(0, 1)
        return summed_loss(hidden, self.output, targets.flatten(), self.shape.z_loss)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return (rows, length, vocabulary) for inputs (rows, length) int64."""
        return functional.linear(self.hidden(inputs), self.output)

    def hidden(
        self, inputs: Tensor, starts: Tensor | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Return what the logits are read from: (rows, length, width)."""
        positions = reading = None
        if starts is not None:
            positions = starts[:, None] + torch.arange(inputs.shape[1], device=inputs.device)
        x, rotation = self._embedded(inputs, positions)
        if documents is not None:  # once for all layers
            dtype, size = product_dtype(x), self.shape.head_size
            dropout = self.shape.dropout * self.training
            reading = Reading(document_mask(documents, dtype, size, dropout))
        x = functional.dropout(x, self.shape.dropout, self.training)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            if number == self.watched:
                self.largest_logit = block.largest_logit(x, rotation, documents)
            if self.recompute and torch.is_grad_enabled():
                # Without dropout a layer draws no random numbers, whose state would be restored.
                random = self.shape.dropout > 0
                x = checkpoint(
                    block, x, rotation, reading, use_reentrant=False, preserve_rng_state=random
                )
            else:
                x = block(x, rotation, reading)
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
            shape = self.shape
            return x, rotation_at(positions, shape.head_size, shape.rope_theta, dtype)
        # A slice where it can be: the gradients of looked-up rows are added up in another order.
        own = self.positions.weight[:length] if positions is None else self.positions(positions)
        return x + own, None
