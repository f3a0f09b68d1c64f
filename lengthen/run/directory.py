"""A run's directory: who owns it, where its files lie, and metrics.jsonl, one object a line.

Written by the trainer, read by everyone. A line leaves the process whole, in one unbuffered write;
a reader skips what it cannot parse and says how much that was.
"""

import json
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lengthen.util.disk import Disk, storage_errors
from lengthen.util.errors import BusyError, CheckpointError, SettingError

Record = dict[str, Any]

LINE_LIMIT = 2**20  # bytes; a longer line is not ours
TAIL = 2**14  # bytes: some whole lines of the end
PACKAGES = ("lengthen", "torch", "numpy", "tokenizers", "safetensors", "pydantic")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE")
SECRET = re.compile(r"token=|key|secret|password", re.IGNORECASE)


@dataclass(frozen=True)
class RunPaths:
    """Where the files of one run lie."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, which alone reproduces the run."""
        return self.root / "config.toml"

    @property
    def environment(self) -> Path:
        """Versions and command."""
        return self.root / "environment.json"

    @property
    def metrics(self) -> Path:
        """Every step, evaluation, probe and event."""
        return self.root / "metrics.jsonl"

    @property
    def discarded(self) -> Path:
        """Lines behind the checkpoint that a resume went back to."""
        return self.root / "metrics.discarded.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The store's tokenizer, so that a run can be sampled from alone."""
        return self.root / "tokenizer.json"

    @property
    def tokenizer_config(self) -> Path:
        """Which token stands between documents, as Transformers names it."""
        return self.root / "tokenizer_config.json"

    @property
    def evaluations(self) -> Path:
        """What `eval` found."""
        return self.root / "evaluations.json"

    @property
    def discarded_evaluations(self) -> Path:
        """What it found about weights that a resume went back behind."""
        return self.root / "evaluations.discarded.json"

    @property
    def lock(self) -> Path:
        """Held by whoever writes here."""
        return self.root / ".lock"

    @property
    def checkpoints(self) -> Path:
        """One directory for each checkpoint."""
        return self.root / "checkpoints"


def open_run(root: Path) -> RunPaths:
    """Return the paths of an existing run; raises SettingError where `root` is none."""
    paths = RunPaths(root)
    if not paths.config.is_file():
        raise SettingError("RUN", "must be a run's directory, which has a config.toml", str(root))
    return paths


def check_new(root: Path, *, overwrite: bool) -> None:
    """Raise SettingError unless a new run may be made in `root`.

    A directory that holds anything is refused; with `overwrite` only what a run of ours wrote goes.
    """
    if not root.exists():
        return
    if not root.is_dir():
        raise SettingError("--out", "must be a directory", str(root))
    paths = RunPaths(root)
    own = {paths.lock.name, *(path.name for path in _files_of(paths))}
    if not paths.config.is_file():
        if {entry.name for entry in root.iterdir()} <= own:
            return  # nothing, or what a run left that ended before it had begun
        raise SettingError("--out", "holds files that no run wrote, so they stay", str(root))
    if not overwrite:
        hint = "--overwrite starts it anew"
        if paths.checkpoints.is_dir() and any(paths.checkpoints.glob("step-*")):
            hint = f"`lengthen resume {root}` goes on with this run, {hint}"
        raise SettingError("--out", "must be a new or empty directory", str(root), hint)


def clear(disk: Disk, paths: RunPaths) -> None:
    """Delete what an earlier run wrote here; call it only as the directory's owner."""
    for path in _files_of(paths):
        disk.remove(path)


def _files_of(paths: RunPaths) -> list[Path]:
    logs = [paths.environment, paths.metrics, paths.discarded]
    results = [paths.evaluations, paths.discarded_evaluations]
    files = [*logs, *results, paths.tokenizer, paths.tokenizer_config, paths.checkpoints]
    torn = sorted(paths.root.glob(f".tmp-{paths.config.name}-*"))  # by a kill, before its rename
    # The configuration goes last: as long as it is there the directory is known to be a run's.
    return [*torn, *(path for path in [*files, paths.config] if path.exists())]


@contextmanager
def owned(root: Path) -> Iterator[int]:
    """Own a run's directory until the block ends or the process dies; raises BusyError.

    The lock is the kernel's: it is free the moment its holder is gone, and the text in the file is
    there for the message alone, and for other ranks: they find the number there that this gives.
    """
    path = RunPaths(root).lock
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        with storage_errors(path):
            root.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        raise BusyError(f"{root} is in use by {_holder(path)}") from None
    try:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "start": started}
        mark = secrets.randbelow(2**62)
        path.write_text(json.dumps({**holder, "mark": mark}), encoding="utf-8")
        yield mark
    finally:
        lock.release()


def mark_in(root: Path) -> int | None:
    """Return the number that the owner of `root` left there, as this process sees it."""
    try:
        return int(json.loads(RunPaths(root).lock.read_bytes())["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holder(path: Path) -> str:
    """Return who has a lock, and what to do about it."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        who = f"pid {int(holder['pid'])} on {holder['host']} since {holder['start']}"
        if (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname()):
            return f"{who}, which is this process; close the log that it writes there"
        return f"{who}; wait for it, or stop it"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process; wait for it, or stop it"


@dataclass
class MetricsLog:
    """metrics.jsonl of a running training; only its owner writes."""

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

    def write(self, record: Record) -> None:
        """Append one line; raises StorageError, and then the file ends where it ended before."""
        line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
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

    What is cut goes to metrics.discarded.jsonl: nothing that was measured is lost. The lines that
    say that the checkpoint was saved, and perhaps the run finished, come right behind those bytes,
    and stay. Raises CheckpointError where the file is shorter than the checkpoint says.
    """
    data = paths.metrics.read_bytes() if paths.metrics.exists() else b""
    if len(data) < size:
        message = f"{paths.metrics} has {len(data)} bytes, the checkpoint saw {size}"
        raise CheckpointError(f"{message}; choose an older one with --checkpoint")
    for line in data[size:].splitlines(keepends=True):
        if (parse_line(line) or {}).get("event") not in ("saved", "finished"):
            break
        size += len(line)
    rest = data[size:]
    if rest:
        discarded = disk.open_append(paths.discarded)
        discarded.write(rest)
        discarded.sync()
        discarded.close()
        disk.truncate(paths.metrics, size)
    return rest.count(b"\n")


@dataclass(frozen=True)
class Metrics:
    """The records of metrics.jsonl; of two for one kind and step the later one counts."""

    records: tuple[Record, ...]
    unreadable: int  # lines that were skipped

    def of(self, kind: str) -> list[Record]:
        """Return the records of one kind, in their order."""
        return [record for record in self.records if record["kind"] == kind]


def read_metrics(path: Path) -> Metrics:
    """Read a finished or a still growing metrics.jsonl; a last line without its end is left out."""
    records: dict[tuple[str, object], Record] = {}
    unreadable = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT), b"")):
            record = parse_line(line)
            if record is not None:
                step = record.get("step")
                alone = record["kind"] == "event" or not isinstance(step, int)
                records[record["kind"], -1 - number if alone else step] = record
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
    parsed = (parse_line(line) for line in reversed(lines))
    return next((record for record in parsed if record is not None), None)


def parse_line(line: bytes) -> Record | None:
    """Return the record of one whole line of a metrics.jsonl; None for a cut or a foreign one."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    # Names shared by all lines: a month of steps in memory would be half names otherwise.
    return {sys.intern(name): value for name, value in record.items()}


def environment(command: Sequence[str]) -> Record:
    """Return what a run depends on besides its configuration, for environment.json."""
    return {
        "command": [_masked(word) for word in command],
        "commit": _commit(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _masked(word: str) -> str:
    name, equals, _ = word.partition("=")
    return f"{name}=***" if equals and SECRET.search(name + equals) else word


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the source tree that runs, or None where it is an installed package.

    `-dirty` behind it: files had been changed since.
    """
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
