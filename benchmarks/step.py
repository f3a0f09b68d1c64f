"""Tokens per second of the trainer's whole step, against loops that do less and trainers in use.

    python benchmarks/step.py                    all lengths; about half an hour on two cores
    python benchmarks/step.py --lengths 256      one length
    python benchmarks/step.py --rounds 3         a quick look

The trainer runs with monitor, log and loader on, evaluation and saving off. The bare loop has the
same model, fused AdamW, clipping and passes, on batches that lie ready. The others are built at the
fastest setting that was found for each, see `models`. All in float32 on the same threads. Peak
memory is that of a process of its own, at the longest length.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import models
from benchmarks.measure import ROUNDS, Figure, figure, ratio, report, seconds_in_rounds
from lengthen.bind import open_store, with_store
from lengthen.corpus.prepare import prepare
from lengthen.devices import Place
from lengthen.disk import Disk
from lengthen.runlog import MetricsLog
from lengthen.settings import build
from lengthen.trainer import Trainer

TOKENS = 8192  # a step
VOCABULARY = 8192
LENGTHS = (64, 256, 1024)
RIVALS = ("bare", "litgpt", "transformers")
Step = Callable[[], object]


def ours(folder: Path, length: int, pass_tokens: int) -> Step:
    """Return one step of the trainer, its record written to a real log."""
    config = build(
        {
            "data": {"path": str(folder / "store")},
            "model": {"layers": 6, "width": 384, "heads": 6, "length": length},
            "pacing": {"kind": "constant"},
            "batch": {"rows": TOKENS // length, "micro_tokens": max(length, pass_tokens)},
            "optimizer": {"learning_rate": 1e-4},
            "budget": {"tokens": 10**12},
        }
    )
    store = open_store(config)
    size = config.batch.micro_tokens
    assert size != "auto"
    trainer = Trainer(with_store(config, store), store, Place(torch.device("cpu")), size)

    def step() -> None:
        record = trainer.step()
        assert record is not None
        with closing(MetricsLog(Disk(), folder / f"metrics-{length}.jsonl")) as log:
            log.write(record)

    return step


def rival(name: str, length: int, pass_tokens: int) -> Step:
    """Return one step of a loop over batches that lie ready."""
    train = {"bare": models.bare, "litgpt": models.litgpt, "transformers": models.transformers}[name](
        length, max(length, pass_tokens)
    )
    generator = np.random.default_rng(0)
    rows = generator.integers(0, VOCABULARY, (TOKENS // length, length + 1))
    batch: Tensor = torch.from_numpy(rows)
    inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
    return lambda: train(inputs, targets)
