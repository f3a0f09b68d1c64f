"""Full length against two schedules at length 16,384 and equal tokens: what the clock says.

9 layers of width 512 with rotary positions in bfloat16, 131,072 tokens in every step. First the
seconds a token at each length, which alone decide what a schedule saves; then one run each of

    constant     length 16,384 throughout
    short        256 for 80 % of the steps, then 16,384
    doubling     256, 512, ... for equal shares of 80 % of the steps, then 16,384

on as many tokens as let `constant` take a third of the part's time; then the loss by position.
Seconds are of training alone. A few hundred updates of one seed show what a schedule costs, and no
more than a sign of what it teaches.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lengthen.config import load as settings
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import free_memory
from lengthen.experiments.compare.seconds import SecondsTable
from lengthen.planning.plan import plan, seconds_along
from lengthen.training.fit import choose_micro_tokens
from scripts.gpu.parts import Call, called
from scripts.gpu.runs import configured, forget_weights, train, write_outcome
from scripts.gpu.seconds import seconds_by_length
from scripts.gpu.store import store_of

GROWN = 0.8  # of the steps, after which the length is full
TIMING = 0.13  # of the part's time, for the seconds by length
BESIDE = 15.0  # seconds of a run that are no training: Python, the GPU, evaluations, the save
READING = 30.0  # seconds of the loss by position, of all runs
LOOKS, SEQUENCES = 12, 16  # evaluations of a run, each of so many sequences
TRIAL_STEPS = 200  # of the schedule whose mean cost stands for that of any number of steps
NAMES = ("constant", "short", "doubling")  # in the order of the runs


@dataclass(frozen=True)
class Size:
    """What is trained."""

    model: Mapping[str, Any]
    shortest: int
    longest: int
    rows: int  # at full length
    most_steps: int


ROTARY = {"positions": "rope", "rope_theta": 100_000.0}
LARGE = Size({"layers": 9, "width": 512, "heads": 8, **ROTARY}, 256, 16_384, 8, 100_000)
SMALL = Size({"layers": 2, "width": 32, "heads": 2, **ROTARY}, 16, 128, 4, 24)


def pacing(size: Size, name: str, count: int) -> dict[str, Any]:
    """Return how the length of a run of `count` steps is paced."""
    grown = max(1, round(GROWN * count))
    values = (size.shortest, size.longest)
    pacings: dict[str, dict[str, Any]] = {
        "constant": {"kind": "constant"},
        "short": {"kind": "staged", "values": values, "boundaries": (grown,)},
        "doubling": {"kind": "doubling", "start": size.shortest, "duration": grown},
    }
    return pacings[name]


def configuration(
    call: Call, size: Size, store: Path, name: str, count: int, passes: int | str = "auto"
) -> Config:
    """Return a run of `count` steps, in micro-batches of at most `passes` tokens."""
    tokens = size.rows * size.longest
    return configured(
        call,
        {
            "data": {"path": str(store)},
            "model": {**size.model, "length": size.longest},
            "pacing": pacing(size, name, count),
            "batch": {"rows": size.rows, "hold": "tokens", "micro_tokens": passes},
            "optimizer": {
                "learning_rate": 1e-3,
                "min_learning_rate": 1e-4,
                "warmup_steps": max(1, count // 20),
                "betas": (0.9, 0.95),
                "weight_decay": 0.1,
            },
            "budget": {"tokens": count * tokens},
            "evaluation": {
                "every_tokens": max(tokens, count * tokens // LOOKS),
                "tokens": SEQUENCES * size.longest,
                "probe_every_steps": 0,
            },
        },
    )


def timed(call: Call, size: Size, config: Config) -> tuple[SecondsTable, int]:
    """Return the seconds by length, one beyond the longest too, and the tokens of a micro-batch."""
    store, context = open_store(config), DistributedContext(torch.device(call.device), "bf16")
    config = with_store(config, store)
    passes = choose_micro_tokens(config, store, context)
    twice = {"model": {"length": 2 * size.longest}, "batch": {"rows": size.rows // 2}}
    beyond = settings.with_overrides(config, twice)
    seconds = TIMING * call.seconds
    table = seconds_by_length(call, "seconds", beyond, size.shortest, passes, seconds)
    free_memory(torch.device(call.device))  # for the processes of the runs
    return table, passes


def mean_seconds(table: SecondsTable, config: Config) -> float:
    """Return the mean seconds of a step of a run."""
    planned = plan(with_store(config, open_store(config)), config.model.length)
    return seconds_along(planned, table.of_step)[-1] / planned.steps


def count_of(size: Size, seconds: Mapping[str, float], whole: float, left: float) -> int:
    """Return the steps of each run: a third of the `whole` time for `constant`, if all fit `left`.

    `seconds` are those of a step, by the name of the run.
    """
    fits = left - READING - len(seconds) * BESIDE
    count = min(whole / 3 / seconds["constant"], fits / sum(seconds.values()))
    return max(LOOKS, min(int(count), size.most_steps))


def read_by_position(call: Call) -> None:
    """Evaluate all runs by position and in shorter windows: `evaluations.json` in each."""
    runs = [str(call.folder / name) for name in NAMES]
    words = ["--tasks", "valid", "--limit", str(SEQUENCES), "--precision", "bf16"]
    command = [sys.executable, "-P", "-m", "lengthen", "eval", *runs, *words]
    subprocess.run(command, check=True)


def main(call: Call) -> None:
    """Time the lengths, train the three, read them."""
    end = time.monotonic() + call.seconds
    size, store = SMALL if call.rehearse else LARGE, store_of(call)
    trials = {name: configuration(call, size, store, name, TRIAL_STEPS) for name in NAMES}
    table, passes = timed(call, size, trials["constant"])
    seconds = {name: mean_seconds(table, trial) for name, trial in trials.items()}
    count = count_of(size, seconds, call.seconds, end - time.monotonic())
    for name in NAMES:
        config = configuration(call, size, store, name, count, passes)
        train(call, {name: config}, end - time.monotonic())
        write_outcome(call, name, predicted_seconds=count * seconds[name])
    read_by_position(call)
    for name in NAMES:
        forget_weights(call, name)


if __name__ == "__main__":
    main(called())
