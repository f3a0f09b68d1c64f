"""The step here against that of the commit before the rebuild, in alternating pairs.

    python -m scripts.step_pairs [--base 2404cf8] [--lengths 8 64 256 1024] [--rounds 15]

Three processes train the same small model at one length: one of this tree, two of the base. In a
round each takes its turn, the order turns from round to round, and the ratio of a round is that of
its own seconds. The base against itself shows what this machine can tell apart. Thrown away with
the referee.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, figure

ROOT = Path(__file__).parents[1]
TOKENS = 8192  # a step
SECONDS = 0.8  # of one turn, about

CHILD = """
import json, sys, tempfile, time
from pathlib import Path
import torch
{imports}

length, folder = int(sys.argv[1]), Path(sys.argv[2])
config = build({{
    "model": {{"layers": 4, "width": 128, "heads": 4, "length": length, "vocabulary": 8192}},
    "pacing": {{"kind": "constant"}},
    "batch": {{"rows": {tokens} // length}},
    "optimizer": {{"learning_rate": 1e-4}},
    "budget": {{"tokens": 10**12}},
    "run": {{"device": "cpu", "precision": "fp32"}},
}})
store = Store.open(folder / "store")
trainer = Trainer(config, store, context, max(length, 4096))
with tempfile.TemporaryDirectory() as out:
    log = JsonLines(Disk(), Path(out) / "metrics.jsonl")
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            log.write(to_json(trainer.step()))
        seconds = time.perf_counter() - began
        status = Path("/proc/self/status").read_text().splitlines()
        peak = int(next(one for one in status if one.startswith("VmHWM:")).split()[1]) * 1024
        print(json.dumps([seconds, peak]), flush=True)
"""
OLD = """
from lengthen.corpus.store import Store
from lengthen.devices import ALONE as context
from lengthen.disk import Disk
from lengthen.runlog import MetricsLog as JsonLines
from lengthen.settings import build
from lengthen.trainer import Trainer
to_json = dict
"""
NEW = """
from lengthen.config.load import build
from lengthen.data.store import Store
from lengthen.distributed.context import SINGLE_PROCESS as context
from lengthen.run.metrics import JsonLines
from lengthen.run.records import to_json
from lengthen.training.trainer import Trainer
from lengthen.util.disk import Disk
"""
PREPARE = """
import sys
from lengthen.data.prepare import prepare
prepare([sys.argv[1]], sys.argv[2], tokenizer="train:8192", quiet=True)
"""


class Contender:
    """A process that trains when it is asked to."""

    def __init__(self, tree: Path, imports: str, length: int, folder: Path) -> None:
        code = CHILD.format(imports=imports, tokens=TOKENS)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(length), str(folder)],
            env={**os.environ, "PYTHONPATH": str(tree)},
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, steps: int) -> tuple[float, int]:
        """Return the seconds of so many steps, and the peak memory so far in bytes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer: list[Any] = json.loads(self.process.stdout.readline())
        return answer[0], answer[1]


def measure(base: Path, folder: Path, length: int, rounds: int) -> None:
    """Print the ratios of speed and memory at one length."""
    contenders = {
        "base": Contender(base, OLD, length, folder),
        "again": Contender(base, OLD, length, folder),
        "new": Contender(ROOT, NEW, length, folder),
    }
    names = list(contenders)
    steps = 2
    for one in contenders.values():
        seconds, _ = one.train(2)
        seconds, _ = one.train(2)
        steps = max(2, round(SECONDS / seconds * 2))
    taken: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    for number in range(rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            seconds, peaks[name] = contenders[name].train(steps)
            taken[name].append(seconds)
    for one in contenders.values():
        assert one.process.stdin is not None
        one.process.stdin.close()
        one.process.wait()
    print(f"length {length}, {steps} steps a turn, {rounds} rounds")
    print(f"  base / new    {_ratio(taken['base'], taken['new'])}")
    print(f"  base / again  {_ratio(taken['base'], taken['again'])}")
    print("  peak memory   " + "  ".join(f"{name} {peaks[name] / 1e6:.1f} MB" for name in names))


def _ratio(one: list[float], other: list[float]) -> Figure:
    return figure([a / b for a, b in zip(one, other, strict=True)])


def main() -> None:
    """Measure at every length."""
    parser = argparse.ArgumentParser(description="The step here against that of a base commit.")
    parser.add_argument("--base", default="2404cf8")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base, folder = Path(name) / "base", Path(name)
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(base), options.base], check=True)
        try:
            text = ROOT / "../shared/data/demo/austen-train.txt.zst"
            words = [sys.executable, "-c", PREPARE, str(text), str(folder / "store")]
            subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
            for length in options.lengths:
                measure(base, folder, length, options.rounds)
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)


if __name__ == "__main__":
    main()
