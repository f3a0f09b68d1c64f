"""A run's directory: where its files lie, what a new run may replace, and which process owns it."""

import errno
import json
import os
import secrets
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, LeaseCompromise, SoftFileLease, Timeout

from lengthen.util.console import note
from lengthen.util.disk import Disk, storage_errors
from lengthen.util.errors import BusyError, SettingError
from lengthen.util.overwrite import check_directory

NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # what a disk without locks says
STORE = ("manifest.json", "tokenizer.json")  # by which a token store is known
LEASE_SECONDS = 60.0  # without a sign of its holder until a lease is free


class RunPaths:
    """Where the files of one run lie."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"  # the resolved settings, which alone reproduce the run
        self.environment = root / "environment.json"  # versions and command
        self.metrics = root / "metrics.jsonl"  # every step, evaluation, probe and event
        # Lines, and what `eval` gave, after the checkpoint that a resume went back to.
        self.discarded = root / "metrics.discarded.jsonl"
        self.discarded_evaluations = root / "evaluations.discarded.json"
        self.evaluations = root / "evaluations.json"  # what `eval` gave
        self.tokenizer = root / "tokenizer.json"  # the store's: a run can be sampled from alone
        self.tokenizer_config = root / "tokenizer_config.json"  # names the token between documents
        self.checkpoints = root / "checkpoints"  # one directory for each
        self.lock = root / ".lock"  # locked by the process that writes here
        self.lease = root / ".lease"  # renewed by that process, on a disk without locks


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
    paths = RunPaths(root)
    locks, first = {paths.lock.name, paths.lease.name}, paths.environment.name
    own = locks | {path.name for path in files_of(paths) if path != paths.config}
    # Others have a config.toml, checkpoints or a tokenizer.json too.
    begun = paths.config.is_file() and b"[pacing]" in paths.config.read_bytes()
    hint = "--overwrite starts it anew"
    if paths.checkpoints.is_dir() and any(paths.checkpoints.glob("step-*")):
        hint = f"`lengthen resume {shlex.quote(str(root))}` continues this run, {hint}"
    # What a run left that ended before it had begun may go without being asked.
    replaced = overwrite or not begun
    check_directory(
        root,
        "run",
        lambda names: begun or names <= (own if first in names else locks),
        overwrite=replaced,
        hint=hint,
    )


def clear(disk: Disk, paths: RunPaths) -> None:
    """Delete what an earlier run wrote here; call it only as the directory's owner."""
    for path in files_of(paths):
        disk.remove(path)


def files_of(paths: RunPaths) -> list[Path]:
    """Return what there is of a run, its checkpoints and torn files too."""
    logs = [paths.environment, paths.metrics, paths.discarded]
    results = [paths.evaluations, paths.discarded_evaluations]
    files = [*logs, *results, paths.tokenizer, paths.tokenizer_config, paths.checkpoints]
    torn = sorted(paths.root.glob(f".tmp-{paths.config.name}-*"))  # by a kill, before its rename
    # The configuration goes last: as long as it is there the directory is known to be a run's.
    return [*torn, *(path for path in [*files, paths.config] if path.exists())]


@contextmanager
def owned(root: Path) -> Iterator[int]:
    """Own a run's directory until the block ends or the process dies; raises BusyError.

    Raises SettingError for a token store, which would have files of another kind in it.
    The lock is the kernel's: it is free the moment its holder is gone, and the text in the file is
    there for the message alone, and for other ranks: they find the number there that this gives.
    A disk without locks has a lease in its place, free once its holder gave no sign for 60 s.
    """
    path = RunPaths(root).lock
    if all((root / name).is_file() for name in STORE):
        raise SettingError("out", "must be another directory than a token store", str(root))
    with ExitStack() as stack:
        try:
            with storage_errors(path):
                root.mkdir(parents=True, exist_ok=True)
                _lock(stack, RunPaths(root))
        except Timeout:
            raise BusyError(f"{root} is in use by {_holder(path)}") from None
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "start": started}
        mark = secrets.randbelow(2**62)
        with storage_errors(path):
            path.write_text(json.dumps({**holder, "mark": mark}), encoding="utf-8")
        yield mark


def _lock(stack: ExitStack, paths: RunPaths) -> None:
    lock = FileLock(paths.lock, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        stack.enter_context(lock)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        if paths.lease.exists():
            note(f"{paths.root} lies on a disk without flock; waiting up to {LEASE_SECONDS:.0f} s")
        # The 60 s are counted from when this process first looks.
        stack.enter_context(_lease(paths).acquire(timeout=1.2 * LEASE_SECONDS))


def _lease(paths: RunPaths) -> SoftFileLease:
    def end(_: LeaseCompromise) -> None:
        note(f"{paths.root} was taken by another process while this one gave no sign")
        os._exit(BusyError.exit_code)  # in the thread that renews: a save would mix two runs

    return SoftFileLease(
        paths.lease, lease_duration=LEASE_SECONDS, on_compromise=end, thread_local=False
    )


def mark_in(root: Path) -> int | None:
    """Return the number that the owner of `root` left there, as this process sees it."""
    try:
        return int(json.loads(RunPaths(root).lock.read_bytes())["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        who = f"pid {int(holder['pid'])} on {holder['host']} since {holder['start']}"
        if (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname()):
            return f"{who}, which is this process; close the log that it writes there"
        return f"{who}; wait for it, or stop it"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process; wait for it, or stop it"
