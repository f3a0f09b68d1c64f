"""What `plan --ranks` foretells of a rank, beside what two gloo processes hold and send.

    python -m benchmarks.scale

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
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import report
from lengthen.config.load import build, with_overrides
from lengthen.config.load import load as load_settings
from lengthen.config.schema import Config
from lengthen.distributed.auto import decided
from lengthen.distributed.launch import join_process_group
from lengthen.distributed.memory import free_large_blocks_at_once
from lengthen.distributed.per_rank import load
from lengthen.training.calibrate import random_store
from lengthen.training.trainer import Trainer

WORLD = 2
SHAPES: dict[str, dict[str, Any]] = {
    "DEEP": {"layers": 8, "width": 192, "heads": 4, "length": 128, "vocabulary": 1024},
    "WIDE": {"layers": 2, "width": 512, "heads": 8, "length": 64, "vocabulary": 2048},
    "WORDS": {"layers": 2, "width": 128, "heads": 4, "length": 128, "vocabulary": 30_000},
}
BATCHES = {"DEEP": (8, 512), "WIDE": (8, 256), "WORDS": (16, 512)}  # rows, tokens of a pass
BYTES_SENT = 200  # where the kernel's tcp_info has tcpi_bytes_sent, 8 bytes
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
    options = parser.parse_args()
    if options.worker:
        worker(load_settings(str(options.worker))[0], options.worker.parent)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in SHAPES:
            for sharded in (False, True):
                config = configuration(name, sharded=sharded)
                real = measured(config, Path(folder) / f"{name}-{sharded}")
                for what, told in predicted(config).items():
                    figure = f"{what.upper()}_{name}_{'SHARDED' if sharded else 'REPLICATED'}"
                    print(f"{told / 1e6:.2f} MB predicted, {real[what] / 1e6:.2f} MB measured")
                    report(f"SCALE_{figure}", told / real[what])


if __name__ == "__main__":
    main()
