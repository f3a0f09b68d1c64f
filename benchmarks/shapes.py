"""What the rules of shape on a processor rest on: short rows, and the size of a micro-batch.

    python -m benchmarks.shapes                            all of it, on one core
    python -m benchmarks.shapes attention --threads 2      seconds on the wall, on a quiet machine

Attention, forward and backward, over 2048 tokens with 6 heads of 64: the kernel for causal rows in
bfloat16 and in float32 (`lengthen.model.mask.SHORT`), plain products of blocks of queries
(`lengthen.model.causal.LONGEST`), and the same rows packed as one long row with a block-diagonal
mask. Then tokens per second of layers and loss, gradients added up, by the tokens
of a micro-batch (`lengthen.distributed.memory.CPU_MICRO_TOKENS`). One thread is timed by the
processor's clock, which a busy machine changes little, more of them by the wall's.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import rivals
from benchmarks.measure import ROUNDS, figure, seconds_in_rounds
from lengthen.distributed.context import DistributedContext
from lengthen.model.causal import attend_causally
from lengthen.model.mask import document_mask

WHAT = ("attention", "passes")
TOKENS, HEADS, SIZE = 2048, 6, 64
LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
PASSES = (512, 1024, 2048, 4096)
# Layers, width, heads: few layers, as each costs the same.
SHAPES = ((2, 128, 2), (2, 384, 6), (1, 768, 12))
LOW, WIDE = torch.bfloat16, torch.float32
Work = Callable[[], None]


def attention(
    length: int,
    dtype: torch.dtype,
    kernel: torch.dtype,
    *,
    packed: bool = False,
    in_blocks: bool = False,
) -> Work:
    """Return one pass over rows of `dtype`, by the kernel for another."""
    generator = torch.Generator().manual_seed(0)
    rows, long = (1, TOKENS) if packed else (TOKENS // length, length)
    each = torch.randn(rows, long, 3, HEADS, SIZE, generator=generator).to(dtype)
    slope = torch.randn(rows, HEADS, long, SIZE, generator=generator).to(dtype)
    documents = torch.arange(TOKENS)[None] // length
    mask = document_mask(documents, kernel, SIZE, 0.0) if packed else None
    assert mask is None or isinstance(mask, Tensor)

    def run() -> None:
        leaf = each.clone().requires_grad_()
        # As views of one product, which the layers have.
        query, key, value = (part.transpose(1, 2).to(kernel) for part in leaf.unbind(2))
        mixed = attend_causally(query, key, value) if in_blocks else torchs(query, key, value, mask)
        torch.autograd.backward(mixed.to(dtype), slope)

    return run


def torchs(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Return what torch's kernel mixes, causally without a mask."""
    return scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)


def by_length(rounds: int, *, processor: bool) -> None:
    """Print the milliseconds of attention at each length."""
    for length in LENGTHS:
        works = {
            "float32": attention(length, WIDE, WIDE),
            "float32, packed": attention(length, WIDE, WIDE, packed=True),
            "bfloat16": attention(length, LOW, LOW),
            "bfloat16, packed": attention(length, LOW, LOW, packed=True),
            "bfloat16 by float32's kernel": attention(length, LOW, WIDE),
            "bfloat16 in blocks": attention(length, LOW, LOW, in_blocks=True),
        }
        seconds = seconds_in_rounds(works, rounds, processor=processor)
        shown = ", ".join(f"{n} {1000 * figure(t).median:.1f}" for n, t in seconds.items())
        print(f"  length {length}: ms of {shown}", flush=True)


def micro_batches(case: rivals.Case, length: int, rounds: int, *, processor: bool) -> None:
    """Print the tokens per second by the tokens of a micro-batch, and those over the best."""
    _, loss = rivals.bare(case)
    tokens = torch.zeros(PASSES[-1] // length, length, dtype=torch.int64)

    def passes(size: int) -> None:
        for part in torch.split(tokens, size // length):
            with case.context.autocast():
                total = loss(part, part)
            torch.autograd.backward(total / PASSES[-1])

    works = {str(size): partial(passes, size) for size in PASSES if size >= length}
    with case.context.keeps_casts():
        seconds = seconds_in_rounds(works, rounds, processor=processor)
    speed = {size: PASSES[-1] / figure(taken).median for size, taken in seconds.items()}
    best = max(speed.values())
    shown = ", ".join(f"{size}: {one:,.0f} ({one / best:.2f})" for size, one in speed.items())
    print(f"  width {case.width}, {case.context.precision}, length {length}: {shown}", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="What the rules of shape rest on.")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{' or '.join(WHAT)} (both)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.what) - set(WHAT):
        parser.error(f"no such measurement: {', '.join(unknown)}")
    torch.set_num_threads(options.threads)
    what, processor = options.what or WHAT, options.threads == 1
    if "attention" in what:
        print(f"attention, {TOKENS} tokens, {HEADS} heads of {SIZE}, threads: {options.threads}")
        by_length(options.rounds, processor=processor)
    if "passes" in what:
        print("tokens/s by the tokens of a micro-batch")
        by_pass(options.rounds, processor=processor)


def by_pass(rounds: int, *, processor: bool) -> None:
    """Print the speed of each size of a micro-batch, by shape and length."""
    for precision in ("fp32", "bf16"):
        context = DistributedContext(torch.device("cpu"), precision)
        for layers, width, heads in SHAPES:
            case = rivals.Case(layers, width, heads, vocabulary=2048, context=context)
            for length in (64, 1024):
                micro_batches(case, length, rounds, processor=processor)


if __name__ == "__main__":
    main()
