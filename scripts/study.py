"""Carry a declared study out: one run after the other, each judged once and then kept packed.

    python -m scripts.study studies/long.toml --data STORE --out DIR --windows 512
    python -m scripts.study studies/long.toml --data STORE --out DIR --windows 512     goes on

The runs go seed by seed, all variants of a seed before the next one, each on one thread, `--jobs`
of them side by side: no figure that a study needs is a time, so they may share a machine. A run
that has ended loses its weights and is packed into the file beside the study (studies/long.tar.xz).
With `--windows` its loss over the whole validation part is measured before that, at full length and
in windows of those lengths, as `lengthen eval --tasks valid` does; the file keeps it.
Another machine goes on from that file: runs that are in it are never trained again. Runs that are
cut short stay in DIR, and resume there.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from lengthen.config.load import with_data
from lengthen.distributed.subnormals import flush_subnormals
from lengthen.evaluation.evaluate import VALID, evaluate
from lengthen.evaluation.models import EvalOptions
from lengthen.evaluation.results import read
from lengthen.experiments.compare.compare import on_its_store
from lengthen.experiments.compare.file import RUNS, Comparison, read_comparison
from lengthen.experiments.compare.run import carry_out
from lengthen.run.directory import RunPaths, owned
from lengthen.run.packed import SUFFIX, opened
from lengthen.util.console import note
from lengthen.util.errors import LengthenError, SettingError
from lengthen.util.tables import counted
from scripts.publish_runs import copy, has_ended, publish, state_of

ROOT = Path(__file__).parents[1]


def packed_beside(file: Path) -> Path:
    """Return where the runs of a study are packed."""
    return file.with_suffix(SUFFIX)


def carry_out_study(
    file: Path,
    out: Path,
    *,
    data: Path,
    windows: Sequence[int] = (),
    jobs: int = 1,
    amend: bool = False,
) -> list[str]:
    """Train, measure and pack every run that is not packed yet; return the names of the crashed.

    `windows` are the shorter lengths at which `valid` is measured, if at all. Raises SettingError
    for a file that was changed since its first run, unless `amend`, and StoppedError after a
    signal, when the run has saved; the same call goes on.
    """
    comparison = read_comparison(file, with_data({}, str(data)))
    comparison = replace(comparison, runs=tuple(map(on_its_store, comparison.runs)))
    _must_be_shorter(windows, comparison)
    packed = packed_beside(file)
    if restored := unpack(packed, out):
        note(f"{counted(restored, 'run')} restored from {packed}")
    directories = {run.name: run.directory(out) for run in comparison.runs}
    for directory in directories.values():  # one may have ended just before a kill
        measure(directory, windows)
    keep = partial(measure_and_pack, out=out, packed=packed, windows=windows)
    carry_out(comparison, out, jobs=jobs, threads=1, amend=amend, on_end=keep)
    publish(out, packed)
    return [name for name, directory in directories.items() if not has_ended(directory)]


def _must_be_shorter(windows: Sequence[int], comparison: Comparison) -> None:
    """Refuse before the first run what `valid` would refuse after it."""
    EvalOptions(windows=tuple(windows))
    length = min(run.config.model.length for run in comparison.runs)
    if max(windows, default=0) >= length:
        raise SettingError("--windows", f"must be shorter than {length} tokens", max(windows))


def unpack(packed: Path, out: Path) -> int:
    """Copy every packed run into `out` that has not ended there; return how many those were."""
    if not packed.exists():
        return 0
    with owned(out), opened(packed) as folder:
        for metrics in sorted((folder / RUNS).rglob("metrics.jsonl")):
            there = out / metrics.parent.relative_to(folder)
            if has_ended(there):
                shutil.rmtree(metrics.parent)
            elif there.exists():
                shutil.rmtree(there)  # it was begun here and ended elsewhere
        return copy(folder, out)


def measure_and_pack(run: Path, *, out: Path, packed: Path, windows: Sequence[int]) -> None:
    """Measure a run that has just ended, and pack all that have."""
    measure(run, windows)
    publish(out, packed)


def measure(run: Path, windows: Sequence[int]) -> None:
    """Delete the weights of a run that has ended; with windows measure `valid` once before."""
    paths = RunPaths(run)
    if not has_ended(run) or not paths.checkpoints.exists():
        return
    is_measured = any(one.outcome.task == VALID for one in read(paths.evaluations))
    if windows and not is_measured and state_of(run) == "finished":
        evaluate(run, VALID, windows=windows)
    shutil.rmtree(paths.checkpoints)


def import_this_tree() -> None:
    """Let each run, a process of its own, import this tree's package, not the installed one."""
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, others)])


def main(words: Sequence[str] | None = None) -> int:
    """Carry a study out; return the exit code."""
    parser = argparse.ArgumentParser(description="Carry a declared study out, run by run.")
    parser.add_argument("file", type=Path, metavar="STUDY.toml")
    parser.add_argument("--data", type=Path, required=True, metavar="STORE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the runs")
    parser.add_argument(
        "--windows",
        type=int,
        nargs="+",
        default=(),
        metavar="N",
        help="measure `valid` in these too",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (1)")
    parser.add_argument("--amend", action="store_true", help="go on with a changed file")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    try:
        own = {name: value for name, value in vars(options).items() if name not in ("file", "out")}
        crashed = carry_out_study(options.file, options.out, **own)
    except LengthenError as error:
        print(f"study: {error}", file=sys.stderr)
        return error.exit_code
    print(*(f"crashed: {name}" for name in crashed), packed_beside(options.file), sep="\n")
    return 1 if crashed else 0


if __name__ == "__main__":
    import_this_tree()
    flush_subnormals()  # as `lengthen eval` does
    sys.exit(main())
