"""Tokens per second at every length of a warmup: short steps must not cost more per token.

    python -m benchmarks.warmup                       about ten minutes on two cores
    python -m benchmarks.warmup --precision bf16      the same in bfloat16
    python -m benchmarks.warmup --lengths 8 64        two lengths

One model (6 layers, width 384, vocabulary 8192, full length 1024) and 4096 tokens a step at every
length, so that a step differs in its shape alone. Beside it the barest loop in the same passes, and
in micro-batches of 8 rows, which is what a loop gives that truncates its rows. In seconds of the
processor, as ratios of them hold on a busy machine too.
"""

import argparse
from collections.abc import Mapping, Sequence
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

TOKENS = 4096  # a step
LENGTHS = (8, 16, 32, 64, 256, 1024)


def trainer_of(folder: Path, context: DistributedContext) -> Trainer:
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
            "run": {"precision": context.precision},
        }
    )
    store = open_store(config)
    size = micro_tokens_within(with_store(config, store), limit=None)
    return Trainer(with_store(config, store), store, context, size)


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
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    lengths, rounds = options.lengths, options.rounds
    case = rivals.Case(context=DistributedContext(torch.device("cpu"), options.precision))
    with real_store() as folder:
        trainer = trainer_of(folder, case.context)
        size = trainer.micro_tokens
        print(f"{size} tokens a micro-batch, {torch.get_num_threads()} threads")
        steps = {f"ours {length}": step_at(trainer, length) for length in lengths}
        steps |= bare_loops("bare", lengths, [size] * len(lengths), case)
        seconds = seconds_in_rounds(steps, rounds, processor=True)
        # For scale: no bar near 1 hangs on these, so few rounds do.
        slow = bare_loops("8 rows", lengths, [8 * length for length in lengths], case)
        seconds |= seconds_in_rounds(slow, min(3, rounds), processor=True)
    for name, taken in seconds.items():
        print(f"  {name:11} {TOKENS / sorted(taken)[len(taken) // 2]:8,.0f} tokens/s")
    for length in lengths:
        compare(length, seconds)


def bare_loops(
    name: str, lengths: Sequence[int], sizes: Sequence[int], case: rivals.Case
) -> dict[str, Step]:
    """Return the barest loop at each length, in passes of so many tokens."""
    return {
        f"{name} {length}": rivals.ready(rivals.bare, TOKENS, length, size, case)
        for length, size in zip(lengths, sizes, strict=True)
        if size <= TOKENS
    }


def compare(length: int, seconds: Mapping[str, Sequence[float]]) -> None:
    """Print the ratios of the trainer's speed at one length."""
    ours = seconds[f"ours {length}"]
    for name, other in (
        ("64", "ours 64"),
        ("BARE", f"bare {length}"),
        ("8_ROWS", f"8 rows {length}"),
    ):
        if theirs := seconds.get(other):
            found = ratio(theirs[: len(ours)], ours[: len(theirs)])
            print(f"  length {length}: {found} times as fast as {other}")
            report(f"WARMUP_{length}_VS_{name}", found)


if __name__ == "__main__":
    main()
