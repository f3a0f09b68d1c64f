"""What a step costs once attention logits have grown, with subnormal numbers and without them.

    python -m benchmarks.subnormals              some minutes on two cores
    python -m benchmarks.subnormals --rounds 3   a quick look

Two models of 4 layers, width 64 and length 2048, alike but for the query and key weights: of one
they are as drawn, of the other so large that some percent of its attention weights are subnormal,
as after a training at too high a rate. Steps of one row in float32, in turn. Each mode has a
process of its own, since threads keep the one that they were started with. How much it is depends
on the processor.
"""

import argparse
import math
import multiprocessing
import statistics
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import ROUNDS, Figure, ratio, report, seconds_in_rounds
from lengthen.config.model import Model
from lengthen.distributed.subnormals import flush_subnormals
from lengthen.model.gpt import GPT

LAYERS, WIDTH, HEADS, LENGTH, VOCABULARY = 4, 64, 4, 2048, 512
SPREAD = 18.0  # standard deviation of the planted logits
NORMAL, LEAST = 2.0**-126, 2.0**-149  # the smallest float32 number of full digits, and of any


def model(*, planted: bool) -> GPT:
    """Return the model as it is drawn, or with large attention logits."""
    gpt = GPT(Model(layers=LAYERS, width=WIDTH, heads=HEADS, length=LENGTH, vocabulary=VOCABULARY))
    gpt.initialise(torch.Generator().manual_seed(0))
    for name, weight in gpt.named_parameters() if planted else ():
        if name.endswith("attention.qkv.weight"):
            plant(weight)
    return gpt


@torch.no_grad()
def plant(qkv: Tensor) -> None:
    """Scale the query and key rows of `qkv` (3 * width, width), which read inputs of variance 1."""
    # A query and a key have WIDTH * std^2 for their variance, and so has their scaled product.
    qkv[: 2 * WIDTH] *= math.sqrt(SPREAD / (WIDTH * float(qkv.std()) ** 2))


def share_of_subnormals(gpt: GPT, tokens: Tensor) -> float:
    """Return the share of subnormal ones among the attention weights of all layers."""
    shares = []

    def seen(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        logits = query.double() @ key.double().transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        reads = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        weights = logits.masked_fill(~reads, -math.inf).softmax(dim=-1)[..., reads]
        shares.append(float(((weights >= LEAST) & (weights < NORMAL)).double().mean()))
        return attention(query, key, value, **options)

    attention = functional.scaled_dot_product_attention
    with torch.no_grad(), patch.object(functional, "scaled_dot_product_attention", seen):
        gpt.logits(tokens)
    return statistics.mean(shares)


def step(gpt: GPT, tokens: Tensor) -> None:
    """Work out the gradients of one row."""
    gpt.zero_grad(set_to_none=True)
    loss: Tensor = gpt(tokens[:, :-1], tokens[:, 1:])
    torch.autograd.backward(loss)


def measured(rounds: int, flush: bool) -> tuple[Figure, float]:
    """Return how many times longer the planted model's step takes, and its subnormal share."""
    if flush:
        assert flush_subnormals()
    tokens = torch.randint(VOCABULARY, (1, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    models = {"planted": model(planted=True), "drawn": model(planted=False)}
    steps = {name: partial(step, gpt, tokens) for name, gpt in models.items()}
    seconds = seconds_in_rounds(steps, rounds)
    share = math.nan if flush else share_of_subnormals(models["planted"], tokens[:, :-1])
    return ratio(seconds["planted"], seconds["drawn"]), share


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="What subnormal numbers cost a step.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for flush in (False, True):
        with context.Pool(1) as pool:
            found, share = pool.apply(measured, (options.rounds, flush))
        if not flush:
            print(f"{100 * share:.1f} % of the planted model's attention weights are subnormal")
        name = "flushed" if flush else "kept"
        print(f"  planted / drawn, subnormal numbers {name}: {found}")
        report(f"SUBNORMALS_{name.upper()}", found)


if __name__ == "__main__":
    main()
