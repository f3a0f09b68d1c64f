"""The summed loss of the model against torch's own chunked one, forward and backward.

    python -m benchmarks.loss

Width 384, vocabulary 8192, 4096 tokens. torch's own takes the options that save its logits, and in
bfloat16 the reduction that keeps the digits of a loss; a line shows what it gives without, at width
128.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import ROUNDS, ratio, report, seconds_in_rounds
from benchmarks.rivals import VOCABULARY, WIDTH
from lengthen.model.loss import summed_loss

TOKENS = 4096
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def torchs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return torch's sum of losses, in float32."""
    options = torch.nn.LinearCrossEntropyOptions()
    if not torch.is_autocast_enabled("cpu"):
        total: Tensor = functional.linear_cross_entropy(
            hidden, weight, targets, reduction="sum", options=options
        )
        return total
    low = torch.bfloat16
    each: Tensor = functional.linear_cross_entropy(
        hidden.to(low), weight.to(low), targets, reduction="none", options=options
    )
    return each.float().sum()


def default_in_bf16(width: int = 128) -> tuple[float, float]:
    """Return the mean loss of bfloat16 tensors, and what torch's default options make of it."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, width, generator=generator).bfloat16()
    weight = (0.02 * torch.randn(VOCABULARY, width, generator=generator)).bfloat16()
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    right = functional.cross_entropy((hidden @ weight.T).float(), targets)
    options = torch.nn.LinearCrossEntropyOptions()
    default = functional.linear_cross_entropy(hidden, weight, targets, options=options)
    return float(right), float(default)


def pass_of(loss: Loss, precision: str) -> Callable[[], None]:
    """Return one forward and backward pass."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).requires_grad_()
    weight = (0.02 * torch.randn(VOCABULARY, WIDTH, generator=generator)).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)

    def run() -> None:
        hidden.grad = weight.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            total = loss(hidden, weight, targets)
        torch.autograd.backward(total / TOKENS)

    return run


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="The loss against torch's own.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    count = parser.parse_args().rounds
    right, default = default_in_bf16()
    print(f"a mean of {right:.2f} in bfloat16 is {default:.2f} by torch's default options")
    for precision in ("fp32", "bf16"):
        losses: dict[str, Loss] = {"ours": summed_loss, "torch": torchs}
        passes = {name: pass_of(loss, precision) for name, loss in losses.items()}
        seconds = seconds_in_rounds(passes, count)
        found = ratio(seconds["torch"], seconds["ours"])
        print(f"{precision}: ours / linear_cross_entropy {found}")
        report(f"LOSS_{precision.upper()}_VS_TORCH", found)


if __name__ == "__main__":
    main()
