"""Rows cut in place against SkyLadder's full rows, whose attention sees one window of each.

As sail-sg/SkyLadder@8ef4156 has it: lit_gpt/packed_dataset.py cuts each row into fragments of w
tokens, lit_gpt/model.py attends causally within each and turns queries and keys by the token's
place in the whole row.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lengthen.core.pacing import Constant, Doubling, Pacing
from lengthen.core.schedule import Schedule
from lengthen.data.loader import Batch, Loader
from lengthen.data.stream import StepStream
from tests.model.test_reference import (
    HEADS,
    LAYERS,
    LENGTH,
    SIZE,
    VOCABULARY,
    Weights,
    linear,
    model_of,
    normed,
)

ROWS, STEPS = 3, 8
TOKENS = np.random.default_rng(0).integers(VOCABULARY, size=40 * LENGTH + 1).astype(np.uint16)


def batches(pacing: Pacing) -> list[Batch]:
    """The batches of the first steps at held tokens, cut in place where the pacing is short."""
    budget = STEPS * ROWS * LENGTH
    schedule = Schedule(
        pacing=pacing,
        full_length=LENGTH,
        rows=ROWS,
        hold="tokens",
        leftovers="in_place",
        budget=budget,
        learning_rate=1.0,
        min_learning_rate=0.0,
        warmup_steps=0,
        decay_tokens=budget,
    )
    loader = Loader(TOKENS, LENGTH, seed=0)
    stream = StepStream(schedule, loader.sequences, reuse_after=1)
    state, found = stream.start, []
    while step := stream.after(state):
        found.append(loader.load(step.blocks, step.plan.length, range(step.plan.rows)))
        state = step.after
    return found


def turned(heads: Tensor) -> Tensor:
    """Turn (..., LENGTH, SIZE) by its places in the whole row, halves as complex numbers."""
    half = SIZE // 2
    angles = [[p / 10_000 ** (2 * j / SIZE) for j in range(half)] for p in range(LENGTH)]
    radians = torch.tensor(angles, dtype=torch.float64)
    pairs = torch.complex(heads[..., :half], heads[..., half:])
    pairs = pairs * torch.polar(torch.ones_like(radians), radians)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def masked_loss(weights: Weights, rows: Batch, window: int) -> Tensor:
    """The mean loss of full rows of which every token sees those before it in its window."""
    place = torch.arange(LENGTH)
    sees = (place[:, None] >= place) & (place[:, None] // window == place // window)
    x = weights["tokens.weight"][rows.inputs]
    for layer in range(LAYERS):
        name = f"blocks.{layer}"
        read = linear(
            normed(x, weights, f"{name}.attention_norm"), weights, f"{name}.attention.qkv"
        )
        query, key, value = (
            part.reshape(*part.shape[:2], HEADS, SIZE).transpose(1, 2)
            for part in read.chunk(3, dim=-1)
        )
        scores = turned(query) @ turned(key).transpose(-1, -2) / math.sqrt(SIZE)
        mixed = scores.masked_fill(~sees, -math.inf).softmax(-1) @ value
        mixed = mixed.transpose(1, 2).flatten(2)
        x = x + linear(mixed, weights, f"{name}.attention.out")
        up = linear(normed(x, weights, f"{name}.perceptron_norm"), weights, f"{name}.perceptron.up")
        up = up / 2 * (1 + (math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)).tanh())
        x = x + linear(up, weights, f"{name}.perceptron.down")
    logits = normed(x, weights, "norm") @ weights["tokens.weight"].T
    chosen = logits.gather(-1, rows.targets[..., None])[..., 0]
    return (logits.logsumexp(-1) - chosen).mean()


@pytest.mark.parametrize("start", [1, 2, 16])
def test_losses_and_gradients_are_those_of_masked_full_rows_with_rotary_positions(
    start: int,
) -> None:
    short = batches(Doubling(start=start, end=LENGTH, duration=STEPS - 1))
    full = batches(Constant(end=LENGTH))
    assert [len(short), len(full)] == [STEPS, STEPS]
    for cut, whole in zip(short, full, strict=True):
        model = model_of({"positions": "rope"})
        loss = model(*cut) / cut.inputs.numel()
        torch.autograd.backward(loss)
        weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
        masked = masked_loss(weights, whole, window=cut.inputs.shape[1])
        torch.autograd.backward(masked)
        assert loss.item() == pytest.approx(masked.item(), rel=1e-10, abs=0)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(
                parameter.grad, weights[name].grad, rtol=1e-10, atol=1e-10, msg=name
            )


def test_learned_positions_would_tell_them_apart() -> None:
    cut, whole = (
        batches(Doubling(start=4, end=LENGTH, duration=9))[0],
        batches(Constant(end=LENGTH))[0],
    )
    model = model_of({})
    starts = torch.arange(len(cut.inputs)) * 4 % LENGTH
    own, in_row = model(*cut).item(), model(*cut, starts).item()
    assert whole.inputs.flatten().equal(cut.inputs.flatten())
    assert own != pytest.approx(in_row, rel=1e-3)
