"""Tokens per second of the trainer's whole step, against loops that do less and trainers in use.

    python -m benchmarks.step                    all lengths; about half an hour on two cores
    python -m benchmarks.step --lengths 256      one length
    python -m benchmarks.step --rounds 3         a quick look

The trainer runs with monitor, log and loader on, evaluation and saving off, at its own default
passes. The bare loop has the same model, fused AdamW, clipping and passes, on a batch that lies
ready. The others, see `rivals`, run at the fastest passes and loss that one trial of each finds.
All in float32 on the same threads. Peak memory is that of a process of its own, each at its
fastest setting, at the last length.
"""

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks import rivals
from benchmarks.measure import ROUNDS, ratio, report, seconds_in_rounds
from lengthen.config.load import build
from lengthen.config.schema import Config
from lengthen.data.prepare import prepare
from lengthen.data.store import Store
from lengthen.distributed.memory import micro_tokens_within
from lengthen.run.metrics import JsonLines
from lengthen.run.records import to_json
from lengthen.training.trainer import Trainer
from lengthen.util.disk import Disk

TOKENS = 8192  # a step
LENGTHS = (64, 256, 1024)
PASSES = (8192, 4096, 2048)
Step = Callable[[], object]

CONTENDERS: dict[str, list[rivals.Made]] = {
    "litgpt": [partial(rivals.litgpt, chunked=False), partial(rivals.litgpt, chunked=True)],
    "transformers": [rivals.transformers],
}


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


def logged(trainer: Trainer, folder: Path) -> Step:
    """Return one step of a trainer, its record written to a log on disk."""
    log = JsonLines(Disk(), folder / f"metrics-{trainer.config.model.length}.jsonl")

    def step() -> None:
        record = trainer.step()
        assert record is not None
        log.write(to_json(record))

    return step


def ours(folder: Path, length: int) -> tuple[Step, int]:
    """Return one step of the trainer on the store in a folder, and the tokens of its passes."""
    store = Store.open(folder / "store")
    config = configuration(rivals.SMALL, length, TOKENS)
    size = micro_tokens_within(config, limit=None)
    return logged(Trainer(config, store, rivals.SMALL.context, size), folder), size


@dataclass(frozen=True)
class Setting:
    """How a rival runs: which of its losses, and how many tokens a pass."""

    loss: int
    pass_tokens: int

    def step(self, name: str, length: int) -> Step:
        """Return the rival's step at this setting."""
        made = CONTENDERS[name][self.loss]
        return rivals.ready(made, TOKENS, length, self.pass_tokens)


def fastest(name: str, length: int) -> Setting:
    """Return the setting at which one step of the rival, after one to warm up, is the quickest."""
    seconds: dict[Setting, float] = {}
    for loss in range(len(CONTENDERS[name])):
        for size in (size for size in PASSES if size >= length):
            setting = Setting(loss, size)
            step = setting.step(name, length)
            taken = seconds_in_rounds({"trial": step}, rounds=1)["trial"]
            seconds[setting] = min(taken)
    setting = min(seconds, key=lambda key: seconds[key])
    print(f"  {name} at its fastest: loss {setting.loss + 1}, {setting.pass_tokens} tokens a pass")
    return setting


@contextmanager
def real_store() -> Iterator[Path]:
    """Yield a folder with a store of real text under a vocabulary of 8192."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(__file__).parents[1] / "../shared/data/demo/austen-train.txt.zst"
        source = text if text.exists() else Path(__file__).parents[1] / "lengthen"
        sources = [str(source)] if text.exists() else [str(p) for p in source.glob("*.py")]
        out = Path(folder) / "store"
        prepare(sources, out, tokenizer=f"train:{rivals.VOCABULARY}", quiet=True)
        yield Path(folder)


def speed(folder: Path, length: int, rounds: int) -> dict[str, Setting]:
    """Print the ratios at one length; return each rival's fastest setting."""
    print(f"length {length}, {TOKENS} tokens a step, {torch.get_num_threads()} threads")
    trainer, size = ours(folder, length)
    print(f"  ours and the bare loop: {size} tokens a pass")
    settings = {name: fastest(name, length) for name in CONTENDERS}
    steps = {"ours": trainer, "bare": rivals.ready(rivals.bare, TOKENS, length, size)}
    steps |= {name: setting.step(name, length) for name, setting in settings.items()}
    seconds = seconds_in_rounds(steps, rounds)
    for name, taken in seconds.items():
        print(f"  {name:13} {TOKENS / sorted(taken)[len(taken) // 2]:8,.0f} tokens/s")
    for name in list(seconds)[1:]:
        found = ratio(seconds[name], seconds["ours"])
        print(f"  ours / {name}: {found}")
        report(f"STEP_{length}_VS_{name.upper()}", found)
    return settings


def peak(
    name: str,
    setting: Setting | None,
    folder: Path,
    length: int,
    answer: "multiprocessing.SimpleQueue[int]",
) -> None:
    """Put the peak memory of a process that does nothing else, in bytes."""
    step = ours(folder, length)[0] if setting is None else setting.step(name, length)
    for _ in range(3):
        step()
    answer.put(peak_bytes())


def peak_bytes() -> int:
    """Return the most memory that this process has held; getrusage would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def memory(folder: Path, length: int, settings: dict[str, Setting]) -> None:
    """Print peak memories, each of a fresh process, each at its own fastest setting."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    everybody: dict[str, Setting | None] = {"ours": None, **settings}
    for name, setting in everybody.items():
        answer: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
        process = context.Process(target=peak, args=(name, setting, folder, length, answer))
        process.start()
        peaks[name] = answer.get()
        process.join()
        print(f"  {name:13} {peaks[name] / 1e9:6.2f} GB at length {length}")
    for name in settings:
        report(f"MEMORY_{length}_VS_{name.upper()}", peaks["ours"] / peaks[name])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="The trainer's step against other loops.")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    with real_store() as folder:
        for length in options.lengths:
            settings = speed(folder, length, options.rounds)
        memory(folder, length, settings)


if __name__ == "__main__":
    main()
