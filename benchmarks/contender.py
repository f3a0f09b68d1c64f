"""One contender of `benchmarks.step`, in a process of its own that takes a step when it is asked.

    python -P benchmarks/contender.py          reads lines of JSON, answers each with one

    {"make": {...Setting...}}    builds it and warms it up: {"seconds": of that}
    {"step": true}               one whole step:            {"seconds": ...}
    {"peak": true}               the most memory so far:    {"bytes": ...}

It runs with the `lengthen` of any tree that PYTHONPATH gives, so that two builds take turns.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lengthen.config.load import build
from lengthen.config.schema import Config
from lengthen.data.store import Store
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import micro_tokens_within
from lengthen.run.metrics import JsonLines
from lengthen.run.records import to_json
from lengthen.training.trainer import Trainer
from lengthen.util.disk import Disk

LAYERS, WIDTH, HEADS, VOCABULARY = 6, 384, 6, 8192
Step = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """Who runs, on what, and how."""

    name: str  # ours, before, bare, litgpt, transformers or lightning
    precision: str
    length: int
    tokens: int  # a step
    store: str
    compiled: bool = False
    pass_tokens: int = 0  # 0: what our trainer takes by itself
    loss: int = 0  # which of litgpt's

    @property
    def how(self) -> str:
        """How it runs, in words."""
        loss = ("", ", plain loss", ", chunked loss")[self.loss]
        passes = f"{self.pass_tokens or self.own_passes} tokens a pass"
        passes = "its own passes" if self.name == "before" else passes
        return f"{'compiled' if self.compiled else 'not compiled'}, {passes}{loss}"

    @property
    def own_passes(self) -> int:
        """The tokens of a pass that our trainer takes by itself."""
        return micro_tokens_within(self.config(), limit=None)

    def config(self) -> Config:
        """Return the training as our trainer has it."""
        shape = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "length": self.length}
        how = {"precision": self.precision, "compile": "on" if self.compiled else "off"}
        return build(
            {
                "model": {**shape, "vocabulary": VOCABULARY},
                "pacing": {"kind": "constant"},
                "batch": {"rows": self.tokens // self.length},
                "optimizer": {"learning_rate": 1e-4},
                "budget": {"tokens": 10**12},
                "run": {"device": "cpu", **how},
            }
        )


def logged(trainer: Trainer, folder: Path) -> Step:
    """Return one step of a trainer, its record written to a log on disk."""
    log = JsonLines(Disk(), folder / f"metrics-{trainer.config.model.length}.jsonl")

    def step() -> None:
        record = trainer.step()
        assert record is not None
        log.write(to_json(record))

    return step


def ours(setting: Setting) -> Step:
    """Return one step of the trainer: monitor, log and loader on, evaluation and saving off."""
    context = DistributedContext(torch.device("cpu"), setting.precision)
    store = Store.open(Path(setting.store))
    trainer = Trainer(setting.config(), store, context, setting.own_passes)
    return logged(trainer, Path(tempfile.mkdtemp()))


def theirs(setting: Setting) -> Step:
    """Return one step of another loop over a batch that lies ready."""
    # Not above: the tree that is timed may lack them.
    from benchmarks import rivals

    context = DistributedContext(torch.device("cpu"), setting.precision)
    case = rivals.Case(positions=setting.length, context=context, compiled=setting.compiled)
    made = rivals.MADE[setting.name if setting.name != "lightning" else "litgpt"]
    passes = setting.pass_tokens or setting.own_passes
    loop = rivals.lightning if setting.name == "lightning" else rivals.ready
    return loop(made[max(0, setting.loss - 1)], setting.tokens, setting.length, passes, case)


def peak_bytes() -> int:
    """Return the most memory that this process has held; getrusage would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def timed(work: Step) -> float:
    """Return the seconds of some work."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def answer(request: dict[str, Any], steps: list[Step]) -> dict[str, float]:
    """Do what a line asks for."""
    if "make" in request:
        setting = Setting(**request["make"])
        steps.clear()  # the memory of the last one
        steps.append((ours if setting.name in ("ours", "before") else theirs)(setting))
        return {"seconds": timed(steps[0])}
    if "step" in request:
        return {"seconds": timed(steps[0])}
    return {"bytes": peak_bytes()}


def main() -> None:
    """Answer every line of the standard input."""
    # What libraries print is none of the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_flush_denormal(True)  # as `lengthen train` does, for all alike
    steps: list[Step] = []
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), steps)), file=answers, flush=True)


if __name__ == "__main__":
    main()
