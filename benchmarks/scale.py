"""A corpus of a trillion tokens, and what `plan --ranks` foretells of a rank, beside what is.

    python -m benchmarks.scale            both
    python -m benchmarks.scale --corpus   the first alone, in a minute

The corpus has a thousand shards, and once more lies in one file; the files are sparse, and read as
zeros. All else is what a run does: `Store.open`, the steps of a schedule, a rank's rows of a step
for 1,024 ranks, `plan`. Each figure has a process of its own.

Then: what two gloo processes hold and send.

Two real processes train two steps of each shape. Bytes sent are those that the kernel counts on the
process's own TCP connections (TCP_INFO), over the second step. Memory is the peak of the resident
set over the second step, less what the process had before the model was built; the C library is
told to give every large block back at once, so that the peak is what was in use.

Gloo has no reduce-scatter of its own: torch makes one of an all-reduce, which sends twice as much.
What is predicted for rings is corrected for that here, and nowhere else.
"""

import argparse
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.measure import report
from lengthen.config.load import build, with_overrides
from lengthen.config.load import load as load_settings
from lengthen.config.schema import Config
from lengthen.data.loader import Loader
from lengthen.data.open_store import with_store
from lengthen.data.prepare import prepare
from lengthen.data.store import Store
from lengthen.data.store_manifest import CHUNK, MANIFEST, manifest_bytes
from lengthen.data.stream import StepStream, row_range
from lengthen.data.token_row import TokenRow
from lengthen.distributed.auto import decided
from lengthen.distributed.launch import join_process_group
from lengthen.distributed.memory import free_large_blocks_at_once
from lengthen.distributed.per_rank import load
from lengthen.experiments.plans import plan
from lengthen.training.calibrate import random_store
from lengthen.training.trainer import Trainer

TOKENS, RANKS, LENGTH, ROWS = 10**12, 1024, 2048, 4096
STORES = {"1,000 shards": 1000, "one file": 1}
WORLD = 2
SHAPES: dict[str, dict[str, Any]] = {
    "DEEP": {"layers": 8, "width": 192, "heads": 4, "length": 128, "vocabulary": 1024},
    "WIDE": {"layers": 2, "width": 512, "heads": 8, "length": 64, "vocabulary": 2048},
    "WORDS": {"layers": 2, "width": 128, "heads": 4, "length": 128, "vocabulary": 30_000},
}
BATCHES = {"DEEP": (8, 512), "WIDE": (8, 256), "WORDS": (16, 512)}  # rows, tokens of a pass
BYTES_SENT = 200  # where the kernel's tcp_info has tcpi_bytes_sent, 8 bytes
T = TypeVar("T")
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def sparse_store(folder: Path, shards: int) -> None:
    """Write a store whose training part is TOKENS zeros in so many files."""
    text = folder.parent / "text.txt"
    text.write_text("a line\n" * 9)
    prepare(text, folder, tokenizer="bytes", valid=0, quiet=True)
    (folder / "train.bin").unlink()
    manifest = json.loads((folder / MANIFEST).read_bytes())
    size, entries = 2 * TOKENS // shards, []
    for number in range(shards):
        with (folder / f"{number}.bin").open("wb") as file:
            file.truncate(size)
        hashes = {"sha256": f"{number:064x}", "chunks": ["0" * 64] * -(-size // CHUNK)}
        entry = {"file": f"{number}.bin", "size": size, "tokens": size // 2, "documents": 1}
        entries.append(entry | hashes | {"text_bytes": None})
    content = {name: manifest[name] for name in manifest if name not in ("id", "format")}
    (folder / MANIFEST).write_bytes(manifest_bytes(content | {"train": entries}))


def corpus_config(folder: Path) -> Config:
    """Return a training of one epoch over a store, whose length grows over half of its steps."""
    tables: dict[str, dict[str, Any]] = {
        "data": {"path": str(folder)},
        "model": {"layers": 48, "width": 1600, "heads": 25, "length": LENGTH},
        "pacing": {"kind": "linear", "start": 64, "duration": TOKENS // (ROWS * LENGTH) // 2},
        "batch": {"rows": ROWS, "micro_tokens": 4 * LENGTH},
        "optimizer": {"learning_rate": 1e-4},
        "budget": {"tokens": TOKENS},
        "evaluation": {"every_steps": 0, "probe_every_steps": 0},
    }
    return build(tables)


def cost(work: Callable[[], T]) -> tuple[T, list[float]]:
    """Return what some work gives, with its seconds and the MB that it added to this process."""
    before, began = resident("VmRSS"), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    return result, [seconds, (resident("VmRSS") - before) / 1e6]


def corpus_worker(folder: Path) -> None:
    """Print what a run does to a store, a line of JSON: seconds and MB of each part."""
    figures: dict[str, list[float]] = {}
    store, figures["open"] = cost(lambda: Store.open(folder))
    row = store.train
    assert isinstance(row, TokenRow)
    starts = np.random.default_rng(0).integers(0, TOKENS - LENGTH, (2000, 1))
    row.windows(starts.ravel(), LENGTH + 1)  # from the disk, whose time is not ours
    windows = [cost(partial(row.windows, start, LENGTH + 1))[1] for start in starts]
    config = with_store(corpus_config(folder), store)
    plans, figures["plan"] = cost(lambda: plan(config, flops="100T", ranks=(RANKS,), quiet=True))
    assert plans.forecasts[0].plan.tokens >= TOKENS
    loader = Loader(row, LENGTH, config.run.seed)
    schedule = config.schedule(loader.sequences)
    stream = StepStream(schedule, loader.sequences, reuse_after=config.batch.reuse_after)
    takes: list[list[float]] = []
    loads: list[list[float]] = []
    state = stream.start
    for rank in range(RANKS):
        step, figure = cost(partial(stream.after, state))
        assert step is not None
        takes.append(figure)
        rows = row_range(step.plan, rank, RANKS)
        loads.append(cost(partial(loader.load, step.blocks, step.plan.length, rows))[1])
        state = step.after
    for name, each in {"window": windows, "take": takes, "load": loads}.items():
        figures[name] = [statistics.median(s for s, _ in each), sum(mb for _, mb in each)]
    print(json.dumps(figures))


def corpus(folder: Path) -> None:
    """Measure each store, and print the figures side by side."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, shards in STORES.items():
        sparse_store(folder / str(shards), shards)
        words = [sys.executable, "-m", "benchmarks.scale", "--corpus-worker"]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        worker = [*words, str(folder / str(shards))]
        done = subprocess.run(worker, check=True, env=env, stdout=subprocess.PIPE)
        found[name] = json.loads(done.stdout)
    many, one = found.values()
    for part, (seconds, mb) in many.items():
        print(f"{part}: {seconds:.6f} s, {mb:.1f} MB; one file {one[part][0]:.6f} s")
    report("SCALE_OPENING", many["open"][0])
    report("SCALE_WINDOW", many["window"][0] / one["window"][0])


def configuration(name: str, **run: object) -> Config:
    rows, micro_tokens = BATCHES[name]
    return build(
        {
            "model": SHAPES[name],
            "pacing": {"kind": "constant"},
            "batch": {"rows": rows, "micro_tokens": micro_tokens},
            "optimizer": {"learning_rate": 1e-3},
            "budget": {"tokens": "1M"},
            "run": {"device": "cpu", **run},
        }
    )


def bytes_sent() -> int:
    """Return what the kernel has sent on the TCP connections of this process."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:
            continue  # closed meanwhile, or no TCP
        total += struct.unpack_from("Q", info, BYTES_SENT)[0]
    return total


def resident(name: str) -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


def worker(config: Config, out: Path) -> None:
    """Train two steps as one rank, and write down what the second one came to."""
    config, _ = decided(config)
    size = config.batch.micro_tokens
    assert size != "auto"
    assert config.model.vocabulary is not None
    tiny = {"layers": 1, "width": 32, "heads": 1, "length": 8, "vocabulary": 8}
    small = with_overrides(config, {"model": tiny, "pacing": {"end": 8}, "batch": {"rows": 2}})
    torch.set_num_threads(1)
    free_large_blocks_at_once()
    with join_process_group(config.run) as context:
        # What torch itself loads and allocates for its first steps is no part of the figure.
        trainer = Trainer(small, random_store(small.model, 2), context, 8)
        trainer.step()
        del trainer
        store = random_store(config.model, config.batch.rows)
        before = resident("VmRSS")
        trainer = Trainer(config, store, context, size)
        trainer.step()
        context.all_reduce_min(0)
        PEAK.write_text("5")  # forget the peak so far
        sent = bytes_sent()
        trainer.step()
        figures = {"sent": bytes_sent() - sent, "peak": resident("VmHWM") - before}
    (out / f"{context.rank}.json").write_text(json.dumps(figures))


def measured(config: Config, folder: Path) -> Mapping[str, int]:
    """Return what the rank that has most stored and sent."""
    folder.mkdir(parents=True)
    file = folder / "config.toml"
    file.write_text(config.to_toml())
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    words = ["-m", "benchmarks.scale", "--worker", str(file)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launcher, *words], check=True, env=env, capture_output=True)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]
    return {name: max(rank[name] for rank in ranks) for name in ranks[0]}


def predicted(config: Config) -> Mapping[str, int]:
    """Return what `plan` says of the same rank, with gradients scattered as gloo does it."""
    size, sharded = config.batch.micro_tokens, config.run.sharded
    assert size != "auto"
    planned = load(config, size, WORLD, sharded=sharded)
    return {"sent": planned.sent + sharded * planned.reduce_sent, "peak": planned.peak}


def main() -> None:
    """Measure, or be one rank of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=Path, metavar="FILE.toml", help="be one rank")
    parser.add_argument("--corpus", action="store_true", help="the corpus alone")
    parser.add_argument("--corpus-worker", type=Path, metavar="STORE", help="use one store")
    options = parser.parse_args()
    if options.corpus_worker:
        corpus_worker(options.corpus_worker)
        return
    if options.worker:
        worker(load_settings(str(options.worker))[0], options.worker.parent)
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus(Path(folder))
        for name in () if options.corpus else SHAPES:
            for sharded in (False, True):
                config = configuration(name, sharded=sharded)
                real = measured(config, Path(folder) / f"{name}-{sharded}")
                for what, told in predicted(config).items():
                    figure = f"{what.upper()}_{name}_{'SHARDED' if sharded else 'REPLICATED'}"
                    print(f"{told / 1e6:.2f} MB predicted, {real[what] / 1e6:.2f} MB measured")
                    report(f"SCALE_{figure}", told / real[what])


if __name__ == "__main__":
    main()
