"""Tokens per second at every length of a warmup: short steps must not cost more per token.

    python -m benchmarks.warmup                  about ten minutes on two cores

One model (6 layers, width 384, vocabulary 8192, full length 1024) and 4096 tokens a step at every
length, so that a step differs in its shape alone. Beside it a bare pass of all 4096 tokens at that
length, and the same step in micro-batches of 8 rows, which is what a fixed number of rows gives.
"""

import argparse
from pathlib import Path

import torch

from benchmarks import rivals
from benchmarks.measure import ROUNDS, ratio, report, seconds_in_rounds
from benchmarks.step import Step, real_store
from lengthen.config.load import build
from lengthen.core.schedule import StepPlan
from lengthen.data.open_store import open_store, with_store
from lengthen.data.stream import StreamState
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import micro_tokens_within
from lengthen.training.trainer import Trainer

TOKENS = 4096  # a step: one micro-batch
LENGTHS = (8, 16, 32, 64, 256, 1024)


def trainer_of(folder: Path) -> Trainer:
    """Return a trainer of the model."""
    config = build(
        {
            "data": {"path": str(folder / "store")},
            "model": {
                "layers": rivals.LAYERS,
                "width": rivals.WIDTH,
                "heads": rivals.HEADS,
                "length": LENGTHS[-1],
            },
            "pacing": {"kind": "constant"},
            "batch": {"rows": TOKENS // LENGTHS[-1]},
            "optimizer": {"learning_rate": 1e-4},
            "budget": {"tokens": 10**12},
        }
    )
    store = open_store(config)
    size = micro_tokens_within(with_store(config, store), limit=None)
    return Trainer(with_store(config, store), store, DistributedContext(torch.device("cpu")), size)


def step_at(trainer: Trainer, length: int) -> Step:
    """Return a step of this one run at `length`."""
    plan = StepPlan(TOKENS // length, length, learning_rate=1e-4)

    def step() -> None:
        now = trainer.train_state
        trainer.train_on(trainer.inputs.stream.planned(plan, StreamState(now.counters, now.ledger)))

    return step


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Every length of a warmup.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with real_store() as folder:
        trainer = trainer_of(folder)
        print(f"{trainer.micro_tokens} tokens a micro-batch, {torch.get_num_threads()} threads")
        steps = {f"ours {length}": step_at(trainer, length) for length in LENGTHS}
        for length in LENGTHS:
            steps[f"bare {length}"] = rivals.ready(rivals.bare, TOKENS, length, TOKENS)
        seconds = seconds_in_rounds(steps, rounds)
        fixed = [length for length in LENGTHS if 8 * length < TOKENS]
        slow = {
            f"8 rows {length}": rivals.ready(rivals.bare, TOKENS, length, 8 * length)
            for length in fixed
        }
        # Beside, for scale: no bar hangs on these, so few rounds do.
        seconds |= seconds_in_rounds(slow, min(3, rounds))
    for name, taken in seconds.items():
        print(f"  {name:11} {TOKENS / sorted(taken)[len(taken) // 2]:8,.0f} tokens/s")
    for length in LENGTHS:
        to_256 = ratio(seconds["ours 256"], seconds[f"ours {length}"])
        to_bare = ratio(seconds[f"bare {length}"], seconds[f"ours {length}"])
        print(f"  length {length}: {to_256} of length 256, {to_bare} of a bare full-size pass")
        report(f"WARMUP_{length}_VS_256", to_256)
        report(f"WARMUP_{length}_VS_BARE", to_bare)


if __name__ == "__main__":
    main()
