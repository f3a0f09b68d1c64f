"""metrics.jsonl, one record a line: written by the trainer, read by everyone.

A line leaves the process whole, in one unbuffered write; a reader skips what it cannot parse and
counts it.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from lengthen.run.directory import RunPaths
from lengthen.run.records import (
    EvalRecord,
    Event,
    Measurement,
    ObservationRecord,
    ProbeRecord,
    Record,
    StepRecord,
    from_json,
    to_json,
)
from lengthen.util.disk import Disk, as_path
from lengthen.util.errors import CheckpointError, SettingError

LINE_LIMIT = 2**20  # bytes; a longer line is not ours
TAIL = 2**14  # bytes: some whole lines of the end

M = TypeVar("M", bound=Measurement)


@dataclass
class JsonLines:
    """A file of JSON objects, one a line, that only its owner writes."""

    disk: Disk
    path: Path
    size: int = field(init=False)  # bytes of the file so far

    def __post_init__(self) -> None:
        self._file = self.disk.open_append(self.path)
        self.disk.sync_directory(self.path.parent)
        self.size = self.path.stat().st_size
        if self.size and not _ends_whole(self.path):
            # A power cut tore the last line: glued to it, the next one would be lost with it.
            self._file.write(b"\n")
            self.size += 1

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line; raises StorageError, and then the file ends where it ended before."""
        line = json.dumps(values, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        try:
            self._file.write(line)
        except BaseException:
            self.disk.truncate(self.path, self.size)
            raise
        self.size += len(line)

    def sync(self) -> None:
        """Force the lines onto the disk, before a checkpoint that counts on them."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def cut_metrics(disk: Disk, paths: RunPaths, size: int) -> int:
    """Cut metrics.jsonl to the `size` bytes that a checkpoint saw; return the lines set aside.

    What is cut goes to metrics.discarded.jsonl: nothing that was measured is lost. The lines right
    after those bytes that say that the checkpoint was saved, or the run finished, stay. Raises
    CheckpointError where the file is shorter than the checkpoint says.
    """
    data = paths.metrics.read_bytes() if paths.metrics.exists() else b""
    if len(data) < size:
        message = f"{paths.metrics} has {len(data)} bytes, the checkpoint saw {size}"
        raise CheckpointError(f"{message}; choose an older one")
    for line in data[size:].splitlines(keepends=True):
        record = from_json(line)
        if not isinstance(record, Event) or record.name not in ("saved", "finished"):
            break
        size += len(line)
    if rest := data[size:]:
        with closing(disk.open_append(paths.discarded)) as discarded:
            discarded.write(rest)
            discarded.sync()
        disk.truncate(paths.metrics, size)
    return rest.count(b"\n")


@dataclass(frozen=True, repr=False)
class Metrics:
    """The records of metrics.jsonl; of two of one kind and step the later one counts."""

    records: tuple[Record, ...]  # in the order of the file
    unreadable: int  # lines that were skipped

    @cached_property
    def steps(self) -> list[StepRecord]:
        """Every step, in the order of steps."""
        return self.of(StepRecord)

    @cached_property
    def evaluations(self) -> list[EvalRecord]:
        """Every evaluation, in the order of steps."""
        return self.of(EvalRecord)

    @cached_property
    def probes(self) -> list[ProbeRecord]:
        """Every probe, in the order of steps."""
        return self.of(ProbeRecord)

    @cached_property
    def observations(self) -> list[ObservationRecord]:
        """Every observation of an adaptive pacing, in the order of steps."""
        return self.of(ObservationRecord)

    @cached_property
    def events(self) -> list[Event]:
        """Every event, in the order of the file."""
        return [record for record in self.records if isinstance(record, Event)]

    def of(self, kind: type[M]) -> list[M]:
        """Return the measurements of one kind, in the order of steps."""
        records = (record for record in self.records if isinstance(record, kind))
        return sorted(records, key=lambda record: record.step)

    def __repr__(self) -> str:
        counts = Counter(to_json(record)["kind"] for record in self.records)
        return f"Metrics({', '.join(f'{kind}: {count:,}' for kind, count in counts.items())})"

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row for each record, in the order of the file.

        Its column `kind` says what a row is ("step", "eval", "probe", "observation", "event"); what
        a kind does not have is NaN. The facts of an event are one column, of dictionaries. Raises
        SettingError where pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError:
            hint = "pip install pandas"
            raise SettingError("to_pandas", "needs the package pandas", hint=hint) from None
        return pandas.DataFrame([_row(record) for record in self.records])


def _row(record: Record) -> dict[str, Any]:
    if isinstance(record, Event):
        place = {"step": record.step, "tokens": record.tokens}
        return {"kind": "event", **place, "event": record.name, "facts": dict(record.facts)}
    return to_json(record)


def read_metrics(run: str | os.PathLike[str]) -> Metrics:
    """Return the records of a run, finished or not, or of a metrics.jsonl.

    A last line without its end is left out, for it is being written. Raises SettingError where
    `run` is neither.

    >>> metrics = lengthen.read_metrics("runs/first")
    >>> metrics
    Metrics(event: 3, step: 15, probe: 1, eval: 1)
    >>> metrics.steps[-1].length, metrics.evaluations[-1].loss < 6
    (72, True)
    >>> frame = metrics.to_pandas()
    >>> int(frame[frame.kind == "step"].tokens.max())
    19936
    """
    path = as_path("run", run)
    path = RunPaths(path).metrics if path.is_dir() else path
    if not path.exists():
        raise SettingError("RUN", "has no metrics.jsonl", str(run))
    records: dict[tuple[type[Record], int], Record] = {}
    unreadable = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT), b"")):
            record = from_json(line)
            if record is not None:
                place = number if isinstance(record, Event) else record.step
                records[type(record), place] = record
            elif line.endswith(b"\n"):
                unreadable += 1
    return Metrics(tuple(records.values()), unreadable)


def last_record(path: Path) -> Record | None:
    """Return the last whole record of a metrics.jsonl without reading the rest; None before one."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read(TAIL).splitlines(keepends=True)
    records = (from_json(line) for line in reversed(lines))
    return next((record for record in records if record is not None), None)
