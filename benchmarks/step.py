"""Tokens per second of the trainer's whole step, against loops that do less and trainers in use.

    python -m benchmarks.step                            all of it; some 50 minutes on two cores
    python -m benchmarks.step --precision bf16 --lengths 256 --rounds 3          a quick look
    python -m benchmarks.step --against ../before        that tree's trainer takes turns as well

The trainer runs with monitor, log and loader on, evaluation and saving off, at its own passes; one
trial says whether compiled. The bare loop has the same model, passes, casts and, compiled or not,
code, fused AdamW and clipping, on a batch that lies ready. The others, see `rivals`, run at the
passes and the loss that are the fastest in one trial of each, compiled where a trial of that is
faster; Lightning's Trainer has litgpt's model at litgpt's setting. Each is a process of its own,
all on the same threads, and they take turns, a step each. Peak memory is that of these processes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import rivals
from benchmarks.contender import VOCABULARY, Setting, Step, logged
from benchmarks.measure import ROUNDS, Figure, ratio, report, seconds_in_rounds
from lengthen.config.load import build
from lengthen.config.schema import Config
from lengthen.data.prepare import prepare
from lengthen.experiments.demo import library_text
from lengthen.run.environment import environment

__all__ = ["Step", "configuration", "logged", "real_store"]

REPOSITORY = Path(__file__).parents[1]
TOKENS = 4096  # a step
LENGTHS = {"fp32": (64, 256, 1024), "bf16": (64, 256, 1024, 4096)}
PASSES = (4096, 2048)
OTHERS = ("litgpt", "transformers", "lightning")
MEMORY_LENGTH = 1024


def configuration(case: rivals.Case, length: int, tokens: int) -> Config:
    """Return a training of the case at one length, `tokens` a step."""
    shape = {"layers": case.layers, "width": case.width, "heads": case.heads, "length": length}
    return build(
        {
            "model": {**shape, "vocabulary": case.vocabulary},
            "pacing": {"kind": "constant"},
            "batch": {"rows": tokens // length},
            "optimizer": {"learning_rate": 1e-4},
            "budget": {"tokens": 10**12},
            "run": {"device": case.context.device.type, "precision": case.context.precision},
        }
    )


class Contender:
    """A process that takes a step when it is asked."""

    def __init__(self, tree: Path) -> None:
        program = REPOSITORY / "benchmarks" / "contender.py"
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name) / "errors"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(program)],
                env={**os.environ, "PYTHONPATH": str(tree.resolve())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self, **request: Any) -> float:
        """Return the one number of the answer; raises ChildProcessError where there is none."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"{request}: {self._errors.read_text()[-2000:]}")
        (value,) = json.loads(line).values()
        return float(value)

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()  # which closes the pipes too
        self._folder.cleanup()


@contextmanager
def contender(tree: Path) -> Iterator[Contender]:
    """Give a contender until the block ends."""
    one = Contender(tree)
    try:
        yield one
    finally:
        one.end()


def fastest(settings: Sequence[Setting], tree: Path) -> Setting:
    """Return the setting at which one step, after one to warm up, is the quickest."""
    seconds: dict[Setting, float] = {}
    with contender(tree) as process:
        for setting in settings:
            process.ask(make=asdict(setting))
            seconds[setting] = process.ask(step=True)
    return min(seconds, key=lambda setting: seconds[setting])


def compiled_if_faster(setting: Setting, tree: Path) -> Setting:
    """Return the setting, compiled where that is faster in one trial of both."""
    return fastest([setting, replace(setting, compiled=True)], tree)


def chosen(first: Setting, before: Path | None) -> dict[str, tuple[Setting, Path]]:
    """Return everybody's setting and the tree that it runs in."""
    found = compiled_if_faster(replace(first, name="ours"), REPOSITORY)
    everybody = {"ours": (found, REPOSITORY), "bare": (replace(found, name="bare"), REPOSITORY)}
    if before:
        store = str(Path(first.store).with_name("before"))
        old = replace(first, name="before", store=store)
        everybody["before"] = compiled_if_faster(old, before), before
    passes = [size for size in PASSES if size >= first.length] or [first.length]
    for name in (name for name in OTHERS if find_spec(name)):
        if name == "lightning":
            if "litgpt" in everybody:
                everybody[name] = replace(everybody["litgpt"][0], name=name), REPOSITORY
            continue
        losses = (1, 2) if name == "litgpt" else (0,)
        tried = [replace(first, name=name, loss=n, pass_tokens=p) for n in losses for p in passes]
        setting = compiled_if_faster(fastest(tried, REPOSITORY), REPOSITORY)
        everybody[name] = setting, REPOSITORY
    return everybody


@dataclass(frozen=True)
class Row:
    """What the table has of one contender at one length."""

    setting: Setting
    speed: float  # tokens/s
    ratio: Figure | None  # ours over it; None of ours
    gigabytes: float
    start: float  # seconds from the process's start to the end of its first step


def measured(everybody: dict[str, tuple[Setting, Path]], rounds: int) -> list[Row]:
    """Return a row for each, all of them having taken turns."""
    processes = {}
    try:
        starts = {}
        for name, (setting, tree) in everybody.items():
            began = time.perf_counter()
            processes[name] = Contender(tree)
            processes[name].ask(make=asdict(setting))
            starts[name] = time.perf_counter() - began
        turns = {name: one.step for name, one in ((n, _Turn(p)) for n, p in processes.items())}
        seconds = seconds_in_rounds(turns, rounds)
        peaks = {name: one.ask(peak=True) / 1e9 for name, one in processes.items()}
    finally:
        for one in processes.values():
            one.end()
    return [
        Row(
            setting,
            setting.tokens / statistics.median(seconds[name]),
            None if name == "ours" else ratio(seconds[name], seconds["ours"]),
            peaks[name],
            starts[name],
        )
        for name, (setting, _) in everybody.items()
    ]


@dataclass(frozen=True)
class _Turn:
    process: Contender

    def step(self) -> float:
        return self.process.ask(step=True)


def print_rows(rows: Sequence[Row]) -> None:
    """Print a length's rows of the table, and its figures."""
    ours = rows[0]
    for row in rows:
        one, name = row.setting, row.setting.name
        against = f"{row.ratio}" if row.ratio else "1"
        print(
            f"| {one.precision} | {one.length} | {name} | {row.speed:,.0f} | {against} "
            f"| {row.gigabytes:.2f} | {row.start:.1f} | {one.how} |",
            flush=True,
        )
    for row in rows[1:]:
        place = (
            f"{row.setting.precision.upper()}_{row.setting.length}_VS_{row.setting.name.upper()}"
        )
        assert row.ratio
        report(f"STEP_{place}", row.ratio)
        if row.setting.length == MEMORY_LENGTH:
            report(f"MEMORY_{place}", ours.gigabytes / row.gigabytes)


@contextmanager
def real_store() -> Iterator[Path]:
    """Yield a folder with a store of real text under a vocabulary of 8192."""
    with tempfile.TemporaryDirectory() as folder:
        source, store = text(Path(folder)), Path(folder) / "store"
        prepare(source, store, tokenizer=f"train:{VOCABULARY}", quiet=True)
        yield Path(folder)


def text(folder: Path) -> str:
    """Return the file of a real text: a novel, or what the demo reads, written to `folder`."""
    novel = REPOSITORY / "../shared/data/demo/austen-train.txt.zst"
    return str(novel if novel.exists() else library_text(folder / "library.jsonl"))


def prepare_by(tree: Path, out: Path) -> None:
    """Prepare the same store by another build, which may read another format."""
    words = ["prepare", text(out.parent), "--out", str(out), "--tokenizer", f"train:{VOCABULARY}"]
    environ = {**os.environ, "PYTHONPATH": str(tree.resolve())}
    command = [sys.executable, "-P", "-m", "lengthen", *words]
    subprocess.run(command, env=environ, check=True, capture_output=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="The trainer's step against other loops.")
    parser.add_argument("--precision", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--lengths", type=int, nargs="+", help="(64 256 1024, and 4096 in bf16)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of a step ({TOKENS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--against", type=Path, metavar="TREE", help="another build of lengthen")
    options = parser.parse_args()
    processor = environment([]).get("processor")
    print(f"{processor}, {torch.get_num_threads()} threads, {options.tokens} tokens a step")
    print("| precision | length | | tokens/s | ours over it | peak GB | start s | setting |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with real_store() as folder:
        if options.against:
            prepare_by(options.against, folder / "before")
        for precision in options.precision:
            for length in options.lengths or LENGTHS[precision]:
                first = Setting("", precision, length, options.tokens, str(folder / "store"))
                print_rows(measured(chosen(first, options.against), options.rounds))


if __name__ == "__main__":
    main()
