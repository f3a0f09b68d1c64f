"""The ledger and the loader: what a step pays for knowing what to read, and for reading it.

    python -m benchmarks.ledger                 100,000 warmup steps; about a minute
    python -m benchmarks.ledger --steps 10000

The ledger runs a linear warmup from 8 to 1024 on 10^9 sequences at 4096 rows, with the rows held
and with the tokens held, in increments of 8 and, as the hardest case, of 1. A take changes nothing,
so each is done three times: the median is of the first, the worst of the quickest of the three,
since the worst of 100,000 would else be an interruption of the machine. The loader reads from
64 million random tokens in memory, on a warm cache.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch

from benchmarks.measure import report
from lengthen.core.ledger import Ledger, reuse_spacing
from lengthen.core.pacing import Linear
from lengthen.data.loader import Loader

FULL_LENGTH, ROWS, SEQUENCES = 1024, 4096, 10**9


def seconds_of_take(ledger: Ledger, rows: int, length: int) -> float:
    began = time.perf_counter()
    ledger.take(rows, length)
    return time.perf_counter() - began


def ledger_figures(name: str, pacing: Linear, *, hold_tokens: bool) -> None:
    tokens = ROWS * FULL_LENGTH
    most_rows = tokens // pacing.start if hold_tokens else ROWS
    ledger = Ledger.start(
        sequences=SEQUENCES,
        full_length=FULL_LENGTH,
        reuse_after=reuse_spacing(64, most_rows, SEQUENCES),
    )
    first, quickest = [], []
    for step in range(pacing.duration):
        length = pacing(step)
        rows = tokens // length if hold_tokens else ROWS
        seconds = [seconds_of_take(ledger, rows, length) for _ in range(3)]
        first.append(seconds[0])
        quickest.append(min(seconds))
        ledger = ledger.take(rows, length)[1]
    report(f"TAKE_MEDIAN_US_{name}", 1e6 * statistics.median(first))
    report(f"TAKE_WORST_US_{name}", 1e6 * max(quickest))
    report(f"STATE_BYTES_{name}", len(json.dumps(ledger.state())))


def loader_figures(loader: Loader, rows: int, length: int) -> None:
    ledger = Ledger.start(
        sequences=loader.sequences,
        full_length=FULL_LENGTH,
        reuse_after=reuse_spacing(64, rows, loader.sequences),
    )
    seconds = []
    for _ in range(200):
        blocks, ledger = ledger.take(rows, length)
        began = time.perf_counter()
        loader.load(blocks, length, range(rows))
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    report(f"LOAD_US_{rows}x{length}", 1e6 * median)
    report(f"LOAD_MILLION_TOKENS_PER_SECOND_{rows}x{length}", rows * length / median / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of ledger and loader.")
    parser.add_argument("--steps", type=int, default=100_000, help="warmup steps")
    steps = parser.parse_args().steps
    for increment in (8, 1):
        pacing = Linear(start=8, end=FULL_LENGTH, duration=steps, multiple=increment)
        ledger_figures(f"ROWS_HELD_BY_{increment}", pacing, hold_tokens=False)
        ledger_figures(f"TOKENS_HELD_BY_{increment}", pacing, hold_tokens=True)
    torch.set_num_threads(1)
    tokens = np.random.default_rng(0).integers(0, 2**16, 64_000_000, dtype=np.uint16)
    loader = Loader(tokens, FULL_LENGTH, seed=0)
    loader_figures(loader, 8, 1024)
    loader_figures(loader, 512, 16)


if __name__ == "__main__":
    main()
