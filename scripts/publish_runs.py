"""Add the finished runs of a comparison to a packed study, without what belongs to one machine.

    python scripts/publish_runs.py COMPARISON studies/large-batch.tar.xz

Runs that are in it already stay as they are. Kept are settings, environment, measurements and what
`eval` found; left out are checkpoints, the tokenizer, the command line and the paths of the token
store and of sets (ids and SHA-256 stay).
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

from lengthen.evaluation.results import Result, read, write
from lengthen.experiments.compare.file import RUNS
from lengthen.run.attempts import ATTEMPTS
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import last_record
from lengthen.run.packed import opened
from lengthen.run.records import Event
from lengthen.util.disk import Disk


def publish(comparison: Path, study: Path) -> int:
    """Add every finished run that `study` does not hold yet; return how many those were."""
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
    """Copy every finished run that `out` does not hold yet; return how many those were."""
    copied = 0
    for metrics in sorted((comparison / RUNS).rglob("metrics.jsonl")):
        here, there = (
            RunPaths(metrics.parent),
            RunPaths(out / metrics.parent.relative_to(comparison)),
        )
        last = last_record(metrics)
        if not isinstance(last, Event) or last.name != "finished":
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
    return copied


def _anywhere(result: Result) -> Result:
    """Return a result without the paths of the set or store that it was found with."""
    kept = tuple((k, v) for k, v in result.outcome.settings if k not in ("set", "store"))
    return replace(result, outcome=replace(result.outcome, settings=kept))


def _publish_attempts(here: Path, there: Path) -> None:
    """Add how runs were started, and nothing that they said; what is there already stays."""
    known = there.read_text(encoding="utf-8").splitlines() if there.is_file() else []
    runs = {json.loads(line)["run"] for line in known}
    for line in here.read_text(encoding="utf-8").splitlines() if here.is_file() else ():
        record = json.loads(line)
        if record["event"] == "started" and record["run"] not in runs:
            known.append(json.dumps(record))
    there.write_text("".join(f"{line}\n" for line in known), encoding="utf-8")


if __name__ == "__main__":
    print(publish(Path(sys.argv[1]), Path(sys.argv[2])), "runs published")
