"""Trainings that a part starts, each in a process of its own, and what they came to."""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from lengthen.config import load as settings
from lengthen.config.schema import Config
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.util.errors import UnstableError
from scripts.gpu.parts import Call


def configured(call: Call, tables: Mapping[str, Any]) -> Config:
    """Return a training on the part's device in bfloat16, which saves nothing before its end."""
    return settings.build(
        {
            **tables,
            "saving": {"every_steps": 0, "keep": 1},
            "run": {"device": call.device, "precision": "bf16", "on_nonfinite": "skip"},
        }
    )


def started(call: Call, name: str, config: Config) -> subprocess.Popen[bytes]:
    """Start the training NAME; it writes its run into the part's folder."""
    file = call.folder / f"{name}.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    words = ["train", str(file), "--out", str(call.folder / name), "--quiet"]
    return subprocess.Popen([sys.executable, "-P", "-m", "lengthen", *words])


def train(call: Call, configs: Mapping[str, Config], seconds: float) -> None:
    """Train several at once; end those that are not done after `seconds`: their logs stay.

    Raises RuntimeError for one that failed. To break down is a result, and no failure.
    """
    end = time.monotonic() + seconds
    running = {name: started(call, name, config) for name, config in configs.items()}
    for name, process in running.items():
        try:
            code = process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            continue
        if code not in (0, UnstableError.exit_code):
            raise RuntimeError(f"the training {name} ended with exit code {code}")


def metrics_of(call: Call, name: str) -> Metrics:
    """Return what the training NAME has written so far; nothing where it has not begun."""
    file = RunPaths(call.folder / name).metrics
    return read_metrics(file) if file.exists() else Metrics((), 0)


def forget_weights(call: Call, name: str) -> None:
    """Delete the checkpoints of the training NAME: they are large, and stay behind."""
    shutil.rmtree(RunPaths(call.folder / name).checkpoints, ignore_errors=True)


def write_outcome(call: Call, name: str, **more: object) -> None:
    """Write down what the training NAME came to, whole or cut."""
    metrics = metrics_of(call, name)
    looks = [
        {"tokens": each.tokens, "seconds": each.seconds, "loss": each.loss}
        for each in metrics.evaluations
    ]
    last = metrics.steps[-1] if metrics.steps else None
    facts = {key: getattr(last, key, None) for key in ("step", "tokens", "seconds")}
    call.write(run=name, **facts, **more, evaluations=looks)
