"""Add the ended runs of a comparison to a packed study, without what belongs to one machine.

    python scripts/publish_runs.py COMPARISON studies/large-batch.tar.xz

A run has ended where it finished or diverged; those that are in the study stay as they are. Kept
are declarations, settings, environment, measurements and what `eval` found; left out are
checkpoints, the tokenizer, the command line and the paths of the token store and of sets (ids and
SHA-256 stay).
"""

import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lengthen.config.load import load
from lengthen.evaluation.results import Result, read, write
from lengthen.experiments.compare.declared import DECLARED
from lengthen.experiments.compare.file import RUNS
from lengthen.experiments.status import State, run_status
from lengthen.run.attempts import ATTEMPTS, read_attempts
from lengthen.run.directory import RunPaths
from lengthen.run.packed import opened
from lengthen.util.disk import Disk


def publish(comparison: Path, study: Path) -> int:
    """Add every ended run that `study` does not hold yet; return how many those were."""
    with opened(study) if study.exists() else _new_folder() as folder:
        copied = copy(comparison, folder)
        pack(folder, study)
    return copied


@contextmanager
def _new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def pack(folder: Path, study: Path) -> None:
    """Write the files of `folder` as `study`; equal files give equal bytes."""
    part = study.with_name(f".tmp-{study.name}")
    with tarfile.open(part, "w:xz", preset=9) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(member, file)
    os.replace(part, study)


def copy(comparison: Path, out: Path) -> int:
    """Copy every ended run that `out` does not hold yet; return how many those were."""
    copied = 0
    for metrics in sorted((comparison / RUNS).rglob("metrics.jsonl")):
        here, there = (
            RunPaths(metrics.parent),
            RunPaths(out / metrics.parent.relative_to(comparison)),
        )
        if not has_ended(here.root):
            continue
        there.root.mkdir(parents=True, exist_ok=True)
        if here.evaluations.exists():
            write(Disk(), there.evaluations, [_anywhere(one) for one in read(here.evaluations)])
        if there.metrics.exists():
            continue
        lines = here.config.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith("path = ")]
        there.config.write_text("".join(kept), encoding="utf-8")
        environment = json.loads(here.environment.read_text(encoding="utf-8"))
        environment.pop("command", None)  # gone from a run that was published before
        there.environment.write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
        there.metrics.write_bytes(metrics.read_bytes())
        copied += 1
    _publish_attempts(comparison / ATTEMPTS, out / ATTEMPTS)
    for declared in comparison.glob(f"*{DECLARED}"):
        _publish_declared(declared, out / declared.name)
    return copied


def has_ended(run: Path) -> bool:
    """Return whether a run has come to its end: it finished, or it diverged on the way."""
    return state_of(run) in ("finished", "diverged")


def state_of(run: Path) -> State:
    """Return how far the run in a directory is, whatever its configuration."""
    file = RunPaths(run).config
    return run_status(run, load(str(file))[0]).state if file.is_file() else "missing"


def _anywhere(result: Result) -> Result:
    """Return a result without the paths of the set or store that it was found with."""
    kept = tuple((k, v) for k, v in result.outcome.settings if k not in ("set", "store"))
    return replace(result, outcome=replace(result.outcome, settings=kept))


def _publish_declared(here: Path, there: Path) -> None:
    """Copy what the file said before its runs, unless as many amendments are there already."""
    declared = here.read_bytes()
    if not there.is_file() or declared.count(b"\n") > there.read_bytes().count(b"\n"):
        there.write_bytes(declared)


def _publish_attempts(here: Path, there: Path) -> None:
    """Add how runs were started, and nothing that they said; what is there already stays."""
    known = list(read_attempts(there.parent))
    runs = {run for run, _ in known}
    new = [one for one in read_attempts(here.parent) if one[0] not in runs]
    lines = [record for _, record in known]
    lines += [record for _, record in new if record["event"] == "started"]
    there.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    print(publish(Path(sys.argv[1]), Path(sys.argv[2])), "runs published")
