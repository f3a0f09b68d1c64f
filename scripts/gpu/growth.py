"""Constant length against linear growth, at constant tokens a step, equally long by the clock.

One model, one text, one rate, one seed. A few steps of each length are timed first, so that both
runs get as many steps as they have time for. Few updates of one seed show what a step costs, and no
more than a sign of what it teaches.
"""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch

from lengthen.config import load as settings
from lengthen.config.schema import Config
from lengthen.core.schedule import steps
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.launch import join_process_group
from lengthen.distributed.memory import free_memory
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.calibrate import real_steps
from lengthen.training.fit import choose_micro_tokens
from scripts.gpu.install import ROOT
from scripts.gpu.lengths import lengths
from scripts.gpu.parts import Call, called
from scripts.gpu.store import TEXT_BYTES
from scripts.gpu.store import main as prepare_library

STORE = ROOT / ".gpu" / "store"
BESIDE = 20.0  # seconds of a run that are no training: Python, the GPU, evaluations, the last save
GROWN = 0.8  # of the steps, behind which the length is full
LOOKS = 12  # evaluations of a run
REHEARSED = 300_000  # bytes of text
TRIAL_STEPS = 200  # of the schedule whose mean cost stands for that of any number of steps


@dataclass(frozen=True)
class Size:
    """What is trained."""

    layers: int
    width: int
    heads: int
    shortest: int
    longest: int
    rows: int  # at full length
    evaluation: int  # tokens
    most_steps: int


LARGE = Size(12, 768, 12, 64, 4096, 16, 131_072, 100_000)
DWARF = Size(2, 32, 2, 16, 128, 4, 1024, 24)


def configuration(
    size: Size, store: Path, device: str, count: int, *, grows: bool, passes: int | str = "auto"
) -> Config:
    """Return a run of `count` steps, in passes of so many tokens."""
    growth = {"kind": "linear", "start": size.shortest, "duration": max(1, round(GROWN * count))}
    tokens = size.rows * size.longest
    return settings.build(
        {
            "data": {"path": str(store)},
            "model": {
                "layers": size.layers,
                "width": size.width,
                "heads": size.heads,
                "length": size.longest,
            },
            "pacing": growth if grows else {"kind": "constant"},
            "batch": {"rows": size.rows, "hold": "tokens", "micro_tokens": passes},
            "optimizer": {
                "learning_rate": 6e-4,
                "min_learning_rate": 6e-5,
                "warmup_steps": max(1, count // 20),
                "betas": (0.9, 0.95),
                "weight_decay": 0.1,
            },
            "budget": {"tokens": count * tokens},
            "evaluation": {
                "every_tokens": max(tokens, count * tokens // LOOKS),
                "tokens": size.evaluation,
                "probe_every_steps": 0,
            },
            "saving": {"every_steps": 0, "keep": 1},
            "run": {"device": device, "precision": "bf16"},
        }
    )


def seconds_by_length(call: Call, size: Size, config: Config) -> tuple[dict[int, float], int]:
    """Return the median seconds of a step at each power of two, and the tokens of a pass."""
    store = open_store(config)
    config = with_store(config, store)
    with join_process_group(config.run) as context:
        passes = choose_micro_tokens(config, store, context)
        tokens = size.rows * size.longest
        step_seconds = real_steps(config, passes, tokens // size.shortest, context)
        found = {}
        for length in lengths(size.shortest, size.longest):
            taken = [step_seconds(tokens // length, length, passes) for _ in range(5)]
            found[length] = median(taken[2:])
            call.write(length=length, step_seconds=taken, tokens=tokens, micro_tokens=passes)
    return found, passes


def mean_seconds(by_length: dict[int, float], config: Config) -> float:
    """Return the mean seconds of a step of a run, between lengths that were timed."""
    known = sorted(by_length)
    seconds = [by_length[length] for length in known]
    return fmean(
        float(np.interp(shape.length, known, seconds)) for _, shape in steps(config.schedule())
    )


def trained(call: Call, name: str, config: Config) -> None:
    """Train a run in a process of its own, and write down what it came to."""
    run = call.folder / name
    file = call.folder / f"{name}.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    words = ["train", str(file), "--out", str(run), "--quiet"]
    began = time.monotonic()
    subprocess.run([sys.executable, "-P", "-m", "lengthen", *words], check=True)
    whole = time.monotonic() - began
    shutil.rmtree(RunPaths(run).checkpoints)
    metrics = read_metrics(RunPaths(run).metrics)
    last = metrics.steps[-1]
    looks = [
        {"tokens": line.tokens, "seconds": line.seconds, "loss": line.loss}
        for line in metrics.evaluations
    ]
    facts = {"step": last.step, "tokens": last.tokens, "seconds": last.seconds}
    call.write(run=name, seconds_in_all=whole, **facts, evaluations=looks)


def store_of(call: Call) -> Path:
    """Return the store that was brought along; in its absence one of the Python library's bytes."""
    if not call.rehearse and STORE.is_dir():
        return STORE
    made = call.folder / "store"
    if not STORE.is_dir():
        print("no store was brought along: bytes of the Python library instead")
    prepare_library(str(made), "bytes", limit=REHEARSED if call.rehearse else TEXT_BYTES)
    return made


def main(call: Call) -> None:
    """Time the lengths, then train both runs for as long as there is time."""
    began = time.monotonic()
    size, store = DWARF if call.rehearse else LARGE, store_of(call)
    trials = {
        name: configuration(size, store, call.device, TRIAL_STEPS, grows=name == "linear")
        for name in ("constant", "linear")
    }
    by_length, passes = seconds_by_length(call, size, trials["constant"])
    free_memory(torch.device(call.device))  # for the processes of the runs
    left = call.seconds - (time.monotonic() - began)
    each = left / len(trials) - BESIDE
    for name, trial in trials.items():
        count = int(each / mean_seconds(by_length, trial))
        count = max(LOOKS, min(count, size.most_steps))
        grows = name == "linear"
        config = configuration(size, store, call.device, count, grows=grows, passes=passes)
        trained(call, name, config)


if __name__ == "__main__":
    main(called())
