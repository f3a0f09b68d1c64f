"""Whether compiled layers are faster than plain ones here: what `run.compile = "auto"` goes by.

    python -m benchmarks.compiled                        both precisions, lengths 64, 256, 1024
    python -m benchmarks.compiled --precision bf16 --lengths 256

Forward and backward passes of one micro-batch of 6 layers, width 384, vocabulary 8192, on one
thread, in turns, in seconds of the processor: it may have other work. Printed is how many times
faster compiled is, and what it took to compile.
"""

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks import rivals
from benchmarks.measure import figure, report
from lengthen.distributed.context import DistributedContext

TOKENS, ROUNDS = 2048, 9
LENGTHS = (64, 256, 1024)


def seconds(work: Callable[[], None]) -> float:
    """Return the seconds of the processor that some work takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def passes(precision: str, length: int, *, compiled: bool) -> Callable[[], None]:
    """Return a forward and backward pass of our model."""
    context = DistributedContext(torch.device("cpu"), precision)
    model, loss = rivals.bare(rivals.Case(context=context, compiled=compiled))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(rivals.VOCABULARY, (TOKENS // length, length + 1), generator=generator)

    def work() -> None:
        with context.autocast():
            total = loss(tokens[:, :-1], tokens[:, 1:])
        torch.autograd.backward(total / TOKENS)
        model.zero_grad()

    return work


def measure(precision: str, length: int, rounds: int) -> None:
    """Print how many times faster compiled passes are."""
    plain, fast = (passes(precision, length, compiled=compiled) for compiled in (False, True))
    first = [seconds(work) for work in (plain, fast)]
    ratios = []
    for number in range(rounds):
        order = (plain, fast) if number % 2 else (fast, plain)
        taken = dict(zip(order, map(seconds, order), strict=True))
        ratios.append(taken[plain] / taken[fast])
    found = figure(ratios)
    print(f"{precision}, length {length}: {found} times as fast, compiled in {first[1]:.0f} s")
    report(f"COMPILED_{precision.upper()}_{length}", found)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Compiled layers against plain ones.")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for precision in options.precision:
        for length in options.lengths:
            measure(precision, length, options.rounds)


if __name__ == "__main__":
    main()
