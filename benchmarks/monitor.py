"""What watching the stability costs: a step of 4096 tokens with the monitor and without.

    python -m benchmarks.monitor                 some minutes on two cores
    python -m benchmarks.monitor --rounds 2      a quick look

One model of about 10 million parameters (10 layers, width 256, vocabulary 8192), 16 rows of 256 in
float32, at the trainer's own passes. Without means the very same trainer, of which this file takes
away the reduction of the second moment, the loss ratio, the step's record and its line in the log.
What a step does beside computing (ledger, input, monitor, log) is also timed by itself, as two
steps may differ by more than that. The probe is apart, at its default: every 10 steps, 8 sequences.
So are the largest logit and the update RMS, at theirs: their own work over a whole step, also with
one row of 4096 tokens.
A tracker works in a process of its own: what it does with the record of a step, in all its threads,
and what starting it takes of the training's.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.measure import ROUNDS, figure, ratio, report, seconds_in_rounds
from benchmarks.step import real_store
from lengthen.config.load import build
from lengthen.config.schema import Config
from lengthen.core.loss_ratio import PROBE_SEQUENCES, LowestLoss
from lengthen.core.schedule import StepPlan
from lengthen.data.loader import micro_batches
from lengthen.data.open_store import open_store, with_store
from lengthen.data.store import Store
from lengthen.data.stream import Step, StreamState
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import micro_tokens_within
from lengthen.model.cost import parameters
from lengthen.model.optim import second_moment_scale, update_rms
from lengthen.model.parts import Block
from lengthen.reporting.trackers import TRACKERS, start_trackers
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import JsonLines
from lengthen.run.records import StepRecord, to_json
from lengthen.training.monitor import StabilityMonitor
from lengthen.training.trainer import StepResult, Trainer
from lengthen.util.disk import Disk

TOKENS, LENGTH = 4096, 256  # of a step, of a row
LAYERS, WIDTH, HEADS = 10, 256, 4
SHORT = 8
BAR = 2.0  # percent of a step
BAR_OF_LOOKS = BAR_OF_ALL = 1.0
T = TypeVar("T")


class NoRatio(LowestLoss):
    """A lowest loss that nobody asks for."""

    def ratio(self, loss: float) -> float | None:
        """Return nothing."""
        return None

    def after(self, loss: float) -> LowestLoss:
        """Return the same."""
        return self


class Nothing(StabilityMonitor):
    """A monitor that measures nothing."""

    def begin(self, step: int) -> None:
        """Do nothing."""

    def take(self, *, counts: bool) -> None:
        """Do nothing."""

    def measures(self, finite: Tensor) -> dict[str, Tensor]:
        """Return nothing."""
        return {}


class Unwatched(Trainer):
    """The trainer without its monitor; clipping and the finite check stay, as they change steps."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.monitor = Nothing(self.config.monitor, self.model, self.optimizer, self.context)

    def _record(self, step: Step, result: StepResult, ratio: float | None) -> StepRecord:
        return StepRecord(step=1, loss=0.0)


def configured(folder: Path, length: int = LENGTH) -> tuple[Config, Store]:
    """Return the configuration, agreed with the store in `folder`."""
    config = build(
        {
            "data": {"path": str(folder / "store")},
            "model": {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "length": length},
            "pacing": {"kind": "constant"},
            "batch": {"rows": TOKENS // length},
            "optimizer": {"learning_rate": 1e-4},
            "budget": {"tokens": 10**12},
        }
    )
    store = open_store(config)
    return with_store(config, store), store


def built(kind: type[Trainer], config: Config, store: Store) -> Trainer:
    """Return a trainer of one kind at the passes that it would choose itself."""
    size = micro_tokens_within(config, limit=None)
    return kind(config, store, DistributedContext(torch.device("cpu")), size)


def logged(trainer: Trainer, path: Path) -> Callable[[], object]:
    """Return the trainer's step with its record written to a log on disk."""
    log = JsonLines(Disk(), path)

    def step() -> None:
        record = trainer.step()
        assert record is not None
        log.write(to_json(record))

    return step


def alone(trainer: Trainer, path: Path, length: int = LENGTH) -> dict[str, float]:
    """Return the seconds of what a step of `length` does beside computing, medians of many times.

    Each by itself on the thread that trains, as if nothing were read ahead.
    """
    record = trainer.step()
    assert record is not None
    log, lowest, inputs = JsonLines(Disk(), path), LowestLoss(), trainer.inputs
    state = StreamState(trainer.train_state.counters, trainer.train_state.ledger)
    plan = StepPlan(TOKENS // length, length, learning_rate=1e-4)
    taken: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        began = time.process_time()
        found = work()
        taken.setdefault(name, []).append(time.process_time() - began)
        return found

    def read(step: Step) -> None:
        batch = inputs.loader.load(step.blocks, length, range(plan.rows))
        micro_batches(batch, plan, 0, 1, TOKENS // trainer.micro_tokens)

    for _ in range(30):
        step = timed("ledger", partial(inputs.stream.planned, plan, state))
        timed("input", partial(read, step))
        timed("monitor", partial(second_moment_scale, trainer.optimizer))
        timed("ratio", partial(lowest.ratio, record.loss or 0.0))
        timed("log", lambda: log.write(to_json(record)))
        state, lowest = step.after, lowest.after(record.loss or 0.0)
    return {name: figure(each).median for name, each in taken.items()}


def measure_alone(trainer: Trainer, path: Path, step: float) -> None:
    """Print what a step does beside computing, in percent of its seconds."""
    for length in (LENGTH, SHORT):
        seconds = alone(trainer, path, length)
        shown = ", ".join(f"{name} {100 * each / step:.3f}" for name, each in seconds.items())
        print(f"  alone, % of a step, rows of {length}: {shown}; bar {BAR_OF_ALL}")
        report(f"ALONE_PERCENT_{length}", 100 * sum(seconds.values()) / step)
        report(f"MONITOR_ALONE_PERCENT_{length}", 100 * seconds["monitor"] / step)


def tracked(trainer: Trainer, run: Path) -> tuple[float, float]:
    """Return the processor seconds that a tracker takes for a record, and training to start it."""
    record = trainer.step()
    assert record is not None
    RunPaths(run).metrics.write_text("")
    began = time.process_time()
    with TRACKERS["tensorboard"](run) as write:
        for _ in range(1000):
            write(record)
    each = (time.process_time() - began) / 1000  # with what it imports
    began = time.process_time()
    start_trackers(run, ["tensorboard"])
    return each, time.process_time() - began


def looks(trainer: Trainer) -> Callable[[], object]:
    """Return the work that a step with the largest logit and the update RMS has more."""
    shape, block = trainer.config.model, trainer.model.blocks[0]
    assert isinstance(block, Block)
    rows = max(1, trainer.micro_tokens // shape.length)
    read = torch.randn(rows, shape.length, shape.width)

    def look() -> None:
        for _ in range(TOKENS // (rows * shape.length)):
            block.largest_logit(read, None)
        update_rms(trainer.optimizer)

    return look


def measure_looks(folder: Path, length: int, rounds: int) -> None:
    """Print the share of the largest logit and the update RMS in their interval of steps."""
    config, store = configured(folder, length)
    bare = built(Unwatched, config, store)
    bare.step()
    seconds = seconds_in_rounds({"step": bare.step, "looks": looks(bare)}, rounds)
    share, every = ratio(seconds["looks"], seconds["step"]), config.monitor.every_steps
    print(f"  logits and updates at length {length}: {share} steps, every {every} steps")
    print(f"  bar {BAR_OF_LOOKS} %")
    report(f"LOOKS_PERCENT_{length}", 100 * share.median / every)


def measure(folder: Path, rounds: int) -> None:
    """Print the monitor's share of a step, and the probe's."""
    config, store = configured(folder)
    assert (len(store.valid) - 1) // LENGTH >= PROBE_SEQUENCES
    watched, bare = built(Trainer, config, store), built(Unwatched, config, store)
    bare.train_state = replace(bare.train_state, lowest=NoRatio())
    print(
        f"{parameters(config.model):,} parameters (vocabulary {store.vocabulary}), "
        f"{TOKENS} tokens a step, {torch.get_num_threads()} threads, {rounds} rounds"
    )
    steps = {
        "with": logged(watched, folder / "metrics.jsonl"),
        "without": bare.step,
        "probe": watched.probe,
    }
    seconds = seconds_in_rounds(steps, rounds)
    for name, taken in seconds.items():
        print(f"  {name:8} {figure(taken)} seconds")
    step = figure(seconds["without"]).median
    found = ratio(seconds["with"], seconds["without"])
    print(f"  with / without: {found}, bar {1 + BAR / 100:.3f}")
    report("MONITOR_RATIO", found)
    report("MONITOR_PERCENT", 100 * (found.median - 1))
    measure_alone(watched, folder / "alone.jsonl", step)
    each, start = tracked(watched, folder)
    report("TRACKER_PERCENT", 100 * each / step)
    report("TRACKER_START_SECONDS", start)
    every = config.evaluation.probe_every_steps
    probed = ratio(seconds["probe"], seconds["without"])
    print(f"  a probe of {PROBE_SEQUENCES} x {LENGTH} tokens: {probed} steps, every {every} steps")
    report("PROBE_PERCENT", 100 * probed.median / every)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="The cost of the monitor.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    with real_store() as folder:
        measure(folder, options.rounds)
        for length in (LENGTH, TOKENS):
            measure_looks(folder, length, options.rounds)


if __name__ == "__main__":
    main()
