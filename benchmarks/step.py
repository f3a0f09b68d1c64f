"""Tokens per second of the trainer's whole step, against loops that do less and trainers in use.

    python -m benchmarks.step                    all lengths; about half an hour on two cores
    python -m benchmarks.step --lengths 256      one length
    python -m benchmarks.step --rounds 3         a quick look

The trainer runs with monitor, log and loader on, evaluation and saving off, at its own default
passes. The bare loop has the same model, fused AdamW, clipping and passes, on a batch that lies
ready. The others, see `rivals`, run at the fastest passes and loss that one trial of each finds.
All in float32 on the same threads. Peak memory is that of a process of its own at length 1024.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import rivals
from benchmarks.measure import ROUNDS, ratio, report, seconds_in_rounds
from lengthen.bind import open_store, with_store
from lengthen.corpus.prepare import prepare
from lengthen.devices import Place
from lengthen.disk import Disk
from lengthen.plan import micro_tokens_within
from lengthen.runlog import MetricsLog
from lengthen.settings import build
from lengthen.trainer import Trainer

TOKENS = 8192  # a step
LENGTHS = (64, 256, 1024)
PASSES = (8192, 4096, 2048, 1024)
Step = Callable[[], object]
Made = Callable[[], tuple[nn.Module, rivals.Loss]]

CONTENDERS: dict[str, list[Made]] = {
    "litgpt": [partial(rivals.litgpt, chunked=False), partial(rivals.litgpt, chunked=True)],
    "transformers": [rivals.transformers],
}


def ours(folder: Path, length: int) -> tuple[Step, int]:
    """Return one step of the trainer, its record written to a log on disk, and its passes."""
    config = build(
        {
            "data": {"path": str(folder / "store")},
            "model": {
                "layers": rivals.LAYERS,
                "width": rivals.WIDTH,
                "heads": rivals.HEADS,
                "length": length,
            },
            "pacing": {"kind": "constant"},
            "batch": {"rows": TOKENS // length},
            "optimizer": {"learning_rate": 1e-4},
            "budget": {"tokens": 10**12},
        }
    )
    store = open_store(config)
    size = micro_tokens_within(with_store(config, store), limit=None)
    trainer = Trainer(with_store(config, store), store, Place(torch.device("cpu")), size)
    log = MetricsLog(Disk(), folder / f"metrics-{length}.jsonl")

    def step() -> None:
        record = trainer.step()
        assert record is not None
        log.write(record)

    return step, size


def rival(made: Made, length: int, pass_tokens: int) -> Step:
    """Return one step of a loop over a batch that lies ready."""
    model, loss = made()
    step = rivals.step_of(model, loss, pass_tokens)
    rows = np.random.default_rng(0).integers(0, rivals.VOCABULARY, (TOKENS // length, length + 1))
    batch = torch.from_numpy(rows)
    inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
    return lambda: step(inputs, targets)


def fastest(name: str, length: int) -> Step:
    """Return the rival at the fastest setting that one trial of each finds; say which that is."""
    trials: dict[str, tuple[float, Step]] = {}
    for number, made in enumerate(CONTENDERS[name]):
        for size in (size for size in PASSES if size >= length):
            step = rival(made, length, size)
            step()
            began = time.perf_counter()
            step()
            seconds = time.perf_counter() - began
            trials[f"loss {number + 1}, {size} tokens a pass"] = (seconds, step)
    setting = min(trials, key=lambda key: trials[key][0])
    print(f"  {name} at its fastest: {setting}")
    return trials[setting][1]


@contextmanager
def real_store() -> Iterator[Path]:
    """Yield a folder with a store of real text under a vocabulary of 8192."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(__file__).parents[1] / "../shared/data/demo/austen-train.txt.zst"
        source = text if text.exists() else Path(__file__).parents[1] / "lengthen"
        sources = [str(source)] if text.exists() else [str(p) for p in source.glob("*.py")]
        out = Path(folder) / "store"
        prepare(sources, out, tokenizer=f"train:{rivals.VOCABULARY}", progress=False)
        yield Path(folder)


def speed(folder: Path, length: int, rounds: int) -> None:
    """Print the ratios at one length."""
    print(f"length {length}, {TOKENS} tokens a step, {torch.get_num_threads()} threads")
    trainer, size = ours(folder, length)
    print(f"  ours and the bare loop: {size} tokens a pass")
    steps = {
        "ours": trainer,
        "bare": rival(rivals.bare, length, size),
        **{name: fastest(name, length) for name in CONTENDERS},
    }
    seconds = seconds_in_rounds(steps, rounds)
    for name, taken in seconds.items():
        print(f"  {name:13} {TOKENS / sorted(taken)[len(taken) // 2]:8,.0f} tokens/s")
    for name in list(seconds)[1:]:
        found = ratio(seconds[name], seconds["ours"])
        print(f"  ours / {name}: {found}")
        report(f"STEP_{length}_VS_{name.upper()}", found)


def peak(name: str, folder: Path, length: int, answer: "multiprocessing.SimpleQueue[int]") -> None:
    """Put the peak memory of a process that does nothing else, in bytes."""
    step = ours(folder, length)[0] if name == "ours" else rival(CONTENDERS[name][0], length, TOKENS)
    if name == "litgpt":
        step = min_memory(length)
    for _ in range(3):
        step()
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def min_memory(length: int) -> Step:
    """Return litgpt with its chunked loss, the leaner of the two."""
    return rival(CONTENDERS["litgpt"][1], length, TOKENS)


def memory(folder: Path, length: int) -> None:
    """Print peak memories, each of a fresh process, all with the step in one pass."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for name in ("ours", *CONTENDERS):
        answer: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
        process = context.Process(target=peak, args=(name, folder, length, answer))
        process.start()
        peaks[name] = answer.get()
        process.join()
        print(f"  {name:13} {peaks[name] / 1e9:6.2f} GB at length {length}")
    for name in CONTENDERS:
        report(f"MEMORY_{length}_VS_{name.upper()}", peaks["ours"] / peaks[name])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="The trainer's step against other loops.")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--memory-only", action="store_true")
    options = parser.parse_args()
    with real_store() as folder:
        memory(folder, max(options.lengths))
        for length in () if options.memory_only else options.lengths:
            speed(folder, length, options.rounds)


if __name__ == "__main__":
    main()
