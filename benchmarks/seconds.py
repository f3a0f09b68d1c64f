"""Seconds a token by length, of one model at equally many tokens a step: alone, on one thread.

    python -m benchmarks.seconds studies/long.toml --data STORE --out studies/seconds-4x128.json
    python -m benchmarks.seconds laptop-2min --data STORE --lengths 64 128 256 --rounds 5

The model, its micro-batches and all else are those of a settings file, a recipe or the first
variant of a comparison; its rows and full length are the tokens of a step. A step is the trainer's
own, on random tokens and without a rate. The lengths take turns, in a new random order each round,
after one round that is not counted. A length beyond the tokens of a step is one row. Nothing else
may run meanwhile: the file has the machine's load at the start.
"""

import argparse
import json
import os
import platform
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lengthen.config.load import build, load, with_data
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.auto import decided
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import micro_tokens_within
from lengthen.distributed.subnormals import flush_subnormals
from lengthen.experiments.compare.file import variants_in
from lengthen.training.calibrate import real_steps
from lengthen.util.disk import Disk
from lengthen.util.errors import LengthenError
from lengthen.util.tables import Table, show

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
ROUNDS = 9
Seconds = Mapping[int, Sequence[float]]  # of a token, by length, one a round


def measured(config: Config, lengths: Sequence[int], rounds: int) -> Seconds:
    """Return the seconds of a token at each length, round by round."""
    tokens, longest = config.batch.rows * config.model.length, max(lengths)
    rows = {length: max(1, tokens // length) for length in lengths}
    tables = config.tables() | {"pacing": {"kind": "constant"}}
    tables["model"] = tables["model"] | {"length": longest}
    tables["batch"] = {"rows": max(1, tokens // longest)}
    context = DistributedContext(torch.device("cpu"), config.run.precision)
    step_seconds = real_steps(build(tables), longest, max(rows.values()), context)
    seconds: dict[int, list[float]] = {length: [] for length in sorted(lengths)}
    order, shuffled = list(lengths), random.Random(0)
    for number in range(rounds + 1):
        shuffled.shuffle(order)
        for length in order:
            taken = step_seconds(rows[length], length, micro_tokens(config, length))
            if number:
                seconds[length].append(taken / (rows[length] * length))
    return seconds


def micro_tokens(config: Config, length: int) -> int:
    """Return the tokens of a micro-batch: one row at least."""
    asked = config.batch.micro_tokens
    return max(length, micro_tokens_within(config, None) if asked == "auto" else asked)


def facts(config: Config, seconds: Seconds, load: float) -> dict[str, Any]:
    """Return the content of the file: medians by length, and what they are of."""
    model = config.tables()["model"]
    return {
        "format": 1,
        "processor": processor(),
        "model": {name: value for name, value in model.items() if name != "length"},
        "tokens_per_step": config.batch.rows * config.model.length,
        "micro_tokens": micro_tokens(config, 1),
        "precision": config.run.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_at_start": load,
        "rounds": len(next(iter(seconds.values()))),
        "seconds_per_token": {str(length): median(each) for length, each in seconds.items()},
        "lowest_and_highest": {str(n): [min(each), max(each)] for n, each in seconds.items()},
    }


def processor() -> str:
    """Return what the processor is called."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def table(seconds: Seconds) -> Table:
    """Return the figures for a reader, in microseconds."""
    longest = median(seconds[max(seconds)])
    rows = (
        (
            f"{length:,}",
            *(f"{1e6 * one:.1f}" for one in (median(each), min(each), max(each))),
            f"{median(each) / longest:.2f}",
        )
        for length, each in seconds.items()
    )
    columns = ("length", "median", "lowest", "highest", "of the longest")
    return Table("Microseconds a token by length", columns, tuple(rows))


def main(words: Sequence[str] | None = None) -> int:
    """Measure; return the exit code."""
    usage, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=usage, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="FILE.toml|RECIPE", help="settings, or a comparison")
    parser.add_argument("--data", metavar="STORE", help="whose vocabulary it is")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"at least 5 ({ROUNDS})")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a table for `seconds` of a study")
    options = parser.parse_args(words)
    if min(options.lengths) < 1 or options.rounds < 1:
        parser.error("--lengths and --rounds must be at least 1")
    load_at_start = os.getloadavg()[0]
    torch.set_num_threads(1)
    try:
        variants = variants_in(options.source, with_data({}, options.data))
        config = next(iter(variants.values()), None) or load(options.source, data=options.data)[0]
        store = open_store(config)
        config = decided(with_store(config, store), store)[0]
        seconds = measured(config, options.lengths, options.rounds)
    except LengthenError as error:
        print(f"seconds: {error}", file=sys.stderr)
        return error.exit_code
    show([table(seconds), f"load of the machine at the start: {load_at_start:.2f}"])
    if options.out:
        content = json.dumps(facts(config, seconds, load_at_start), indent=1)
        Disk().replace_file(options.out, content.encode() + b"\n")
        print(options.out)
    return 0


if __name__ == "__main__":
    flush_subnormals()  # as `lengthen train` does
    sys.exit(main())
