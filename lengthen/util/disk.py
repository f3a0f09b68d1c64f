"""Every file effect of stores, runs and checkpoints, numbered, so that a test can break any one.

A rename is the only commit: what is there under its final name is whole and synced.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from lengthen.util import faults
from lengthen.util.errors import DataError, SettingError, StorageError, one_line
from lengthen.util.faults import Site

T = TypeVar("T")
PathOrPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Before = Callable[[int, str, Path], None]  # operation number from 1, its name, the path

# Space and quota; a file too large is what a limit on file sizes gives where a disk gives "full".
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
STORAGE = FULL | {errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENXIO}

PASSING = {errno.EIO, errno.ESTALE}  # what a network disk says while it is away for a moment
WAITS = (0.1, 1.0, 5.0)  # seconds before each further try


@dataclass(frozen=True)
class Written:
    """What was written into one file, for its manifest."""

    size: int  # bytes
    sha256: str  # hexadecimal


class DiskFile:
    """An open file that only grows; `written` is what went through it so far."""

    def __init__(self, disk: "Disk", path: Path, handle: BinaryIO) -> None:
        self.path = path
        self._disk, self._handle = disk, handle
        self._size, self._hash = 0, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append `data` as one numbered operation; raises StorageError."""
        rest = memoryview(data).cast("B")
        with self._disk.operation("write", self.path):
            self._hash.update(rest)
            self._size += len(rest)
            while rest:  # a disk that fills up takes the first part without an error
                rest = rest[self._handle.write(rest) :]

    def sync(self) -> None:
        """Force everything written onto the disk."""
        with self._disk.operation("sync", self.path):
            self._handle.flush()
            os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close without a sync; an error that only shows on closing counts."""
        with storage_errors(self.path):
            self._handle.close()

    @property
    def written(self) -> Written:
        """Size and hash of all that was written here."""
        return Written(self._size, self._hash.hexdigest())


class Disk:
    """File effects, numbered from 1; `before` is called before each, and may raise or kill."""

    def __init__(self, before: Before | None = None) -> None:
        self.operations = 0
        self._before = before

    def at(self, site: Site) -> "Disk":
        """Return this disk for work at one site, where a fault on purpose can break it."""
        if faults.asked() is None:
            return self

        def before(_number: int, name: str, path: Path) -> None:
            with self.operation(name, path):
                faults.inject(site)

        return Disk(before)

    @contextlib.contextmanager
    def operation(self, name: str, path: Path) -> Iterator[None]:
        """Number one operation, and turn its operating-system error into a StorageError."""
        self.operations += 1
        with storage_errors(path):
            if self._before is not None:
                self._before(self.operations, name, path)
            yield

    def make_directory(self, path: Path) -> None:
        """Create `path`, which must not exist, with its missing parents."""
        with self.operation("make_directory", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()

    def create(self, path: Path) -> DiskFile:
        """Open a new file, which must not exist, for writing."""
        with self.operation("create", path):
            return DiskFile(self, path, path.open("xb"))

    def open_append(self, path: Path) -> DiskFile:
        """Open a file, new or old, to write after its end; unbuffered: a line is out at once."""
        with self.operation("open_append", path):
            return DiskFile(self, path, path.open("ab", buffering=0))

    def write_file(self, path: Path, data: bytes | Iterable[bytes | memoryview]) -> Written:
        """Create `path`, write it whole and sync it; its directory is the caller's to sync."""
        file = self.create(path)
        try:
            for part in [data] if isinstance(data, bytes) else data:
                file.write(part)
            file.sync()
        finally:
            file.close()
        return file.written

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes and sync it."""
        with self.operation("truncate", path), path.open("r+b") as handle:
            handle.truncate(size)
            os.fsync(handle.fileno())

    def sync_directory(self, path: Path) -> None:
        """Force the names in a directory onto the disk, where its file system can."""
        with self.operation("sync_directory", path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno != errno.EINVAL:  # of a file system that syncs no directories
                    raise
            finally:
                os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing a file; a directory in the way that is not empty is an error."""
        with self.operation("rename", target):
            source.rename(target)

    def replace_file(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all: a temporary sibling, synced, then renamed."""
        temporary = temporary_beside(path)
        try:
            self.write_file(temporary, data)
            self.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.sync_directory(path.parent)

    def commit_directory(self, temporary: Path, path: Path) -> None:
        """Give a finished temporary directory its final name; this is the moment it exists."""
        self.sync_directory(temporary)
        self.rename(temporary, path)
        self.sync_directory(path.parent)

    def replace_directory(self, temporary: Path, path: Path) -> None:
        """Give a finished temporary directory its final name, perhaps that of an older directory.

        The older one steps aside first, and comes back if that fails.
        """
        if not path.exists() or not any(path.iterdir()):
            self.commit_directory(temporary, path)
            return
        # No system call that Python has swaps two folders, so there is a moment without either.
        old = temporary_beside(path)
        self.rename(path, old)
        try:
            self.commit_directory(temporary, path)
        except BaseException:
            # Renamed, but perhaps not for good: then the old one is kept under its hidden name.
            if not path.exists():
                old.rename(path)
            raise
        self.remove(old)

    def remove(self, path: Path) -> None:
        """Delete a file or a directory with all it holds; what is gone already is no error."""
        with self.operation("remove", path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def with_retries(read: Callable[[], T]) -> T:
    """Return what `read` returns; after an OSError that may pass, try three times more."""
    for wait in WAITS:
        try:
            faults.inject("load")
            return read()
        except OSError as error:
            if error.errno not in PASSING:
                raise
        time.sleep(wait)
    faults.inject("load")
    return read()


def as_path(name: str, value: object) -> Path:
    """Return what a user gave for `name` as a path; raises SettingError for what is none."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise SettingError(name, "must be a path", value)
    return Path(value)


def as_line(name: str, path: Path) -> Path:
    """Return a path that one line of a file can hold; raises SettingError for another."""
    text = str(path)
    if text.splitlines() != [text] or text.encode(errors="replace").decode() != text:
        raise SettingError(name, "must be one line of text, in UTF-8", text)
    return path


def optional_path(name: str, value: object) -> Path | None:
    """Return what a user gave for `name`, or None, as a path; raises SettingError."""
    return None if value is None else as_path(name, value)


def as_paths(name: str, value: object) -> list[Path]:
    """Return one path or several, as a user gave them for `name`; raises SettingError."""
    paths = list(value) if isinstance(value, list | tuple) else [value]
    if not paths:
        raise SettingError(name, "must be at least one path")
    return [as_path(name, path) for path in paths]


def temporary_beside(path: Path) -> Path:
    """Return an unused hidden name in the directory of `path`, so that a rename can commit it."""
    return path.parent / f".tmp-{path.name}-{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk itself into a StorageError that names the file and the way out."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        way_out = "free some space" if error.errno in FULL else "check the disk and its permissions"
        reason = os.strerror(error.errno or 0).lower()
        message = f"storage {path}: {reason}; {way_out} and run the command again"
        raise StorageError(message) from error


def read_limited(path: Path, limit: int) -> bytes:
    """Read a regular file, no link, of at most `limit` bytes; raises DataError."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"file {path}: must be a regular file, no link")
        if status.st_size > limit:
            raise DataError(f"file {path}: must be at most {limit} bytes, has {status.st_size}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"file {path}: cannot be read ({reason_of(error)})") from None


def reason_of(error: OSError) -> str:
    """Return what the system says of a failure, for the middle of a sentence."""
    return (error.strerror or one_line(error)).lower()


def lfs_pointer(start: bytes) -> str | None:
    """Return what is wrong where a file begins as Git LFS's stand-in for one; else None."""
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and not the file itself; `git lfs pull` fetches it"
    return None
