"""A run's copy in an object store: `push` puts it there, `pull` fetches it.

    URL/manifest.json     the files of the run: size, SHA-256, SHA-256 of every 64 MiB
    URL/data/<sha256>     64 MiB of a file, or its rest, under the hash of these bytes

An object store renames nothing: data goes first, and the manifest, one object, is the commit. No
data is written over. What the manifest does not list is deleted after the commit.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from lengthen.checkpoint.verify import MANIFEST, damage, list_checkpoints, read_manifest, step_of
from lengthen.data.store_manifest import CHUNK, FileEntry, ManifestModel
from lengthen.data.tokenizer_files import first_problem
from lengthen.run.directory import RunPaths, files_of, open_run
from lengthen.util import manifest as bytewise
from lengthen.util.disk import Disk, temporary_beside
from lengthen.util.errors import CheckpointError, SettingError, StorageError, one_line
from lengthen.util.overwrite import check_directory
from lengthen.util.tables import counted

Name = Annotated[str, Field(pattern=r"^(checkpoints/step-\d{8,18}/)?[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
HASH = re.compile(r"[0-9a-f]{64}")
DAY = 86400  # seconds
T = TypeVar("T")


class RemoteManifest(ManifestModel):
    """The files of a run, by their names below its directory."""

    format: Literal[1] = 1
    files: dict[Name, FileEntry]

    @property
    def hashes(self) -> set[str]:
        """The names of all data."""
        return {chunk for entry in self.files.values() for chunk in entry.chunks}


class Remote:
    """Objects below a URL. Each call ends within the time-out, and raises StorageError."""

    def __init__(self, url: str, timeout: float) -> None:
        """Connect to nothing yet; raises SettingError for a URL that no package serves."""
        import fsspec

        if not 0 < timeout <= DAY:
            raise SettingError("timeout", f"must be above 0 and at most {DAY} seconds", timeout)
        self.url, self._timeout = url, timeout
        try:
            self._fs, root = fsspec.url_to_fs(url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise SettingError("URL", f"cannot be used ({one_line(error)})", url) from None
        self._root, self._is_disk = root.rstrip("/"), self._fs.protocol[0] == "file"
        if "://" not in url:
            raise SettingError("URL", "must begin with s3://, gs:// or file://", url)

    def check_place(self) -> None:
        """Raise SettingError for a folder that holds other things, as a run's own does."""
        if self._is_disk:
            ours = {MANIFEST, "data"}
            check_directory(
                Path(self._root or "/"),
                "pushed run",
                lambda names: {name for name in names if not name.startswith(".tmp-")} <= ours,
                overwrite=True,
                setting="URL",
            )

    def get(self, name: str) -> bytes:
        """Return an object; empty where there is none."""
        return self._call(lambda: self._cat(f"{self._root}/{name}"))

    def _cat(self, path: str) -> bytes:
        with suppress(FileNotFoundError):
            return bytes(self._fs.cat_file(path))
        return b""

    def hashes(self) -> set[str]:
        """Return the names of all data that is there; other things may lie there, too."""
        self._fs.invalidate_cache()
        found = self._call(lambda: self._fs.find(f"{self._root}/data"))
        return {name for path in found if HASH.fullmatch(name := path.rpartition("/")[2])}

    def put(self, name: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        write = self._write_file if self._is_disk else self._fs.pipe_file
        self._call(lambda: write(f"{self._root}/{name}", data))

    def _write_file(self, path: str, data: bytes) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Disk().replace_file(Path(path), data)

    def delete(self, hashes: set[str]) -> None:
        """Delete data; what is gone already is no error."""
        for name in hashes:  # one by one: `rm` also deletes what [ ] and * in a URL match
            self._call(partial(self._remove, f"{self._root}/data/{name}"))

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _call(self, work: Callable[[], T]) -> T:
        """Do what may hang in a thread that nobody waits for longer than the time-out."""
        future: Future[T] = Future()

        def carry_out() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        Thread(target=carry_out, daemon=True).start()
        try:
            return future.result(self._timeout)
        except TimeoutError:
            rule = f"no answer within {self._timeout:g} s; try again, or give a longer --timeout"
            raise StorageError(f"storage {self.url}: {rule}") from None
        except StorageError:
            raise
        except Exception as error:  # every package has its own
            raise StorageError(f"storage {self.url}: {one_line(error)}") from None


def push(run: Path, url: str, *, overwrite: bool = False, timeout: float = 60.0) -> str:
    """Bring a run's copy at a URL up to the run, which may be in training; return what was done.

    What is there already is not sent again, unless `overwrite`, which also replaces another run.
    Whenever it is killed, `pull` gives the earlier copy or the new one. Raises SettingError,
    CheckpointError for a damaged checkpoint, StorageError.
    """
    paths, remote = open_run(run), Remote(url, timeout)
    remote.check_place()
    committed = remote.get(MANIFEST)
    old = _parse(committed, url)
    if not overwrite:
        _check_same_run(paths, old, url)
    there = set() if overwrite else remote.hashes()
    files: dict[str, FileEntry] = {}
    while not files and (listed := list_checkpoints(paths.checkpoints)):
        for path in listed:
            with suppress(FileNotFoundError):  # training deletes old ones meanwhile
                files |= _send_checkpoint(remote, path, there)
    for path in files_of(paths):  # last, for the log has all that a checkpoint counts on
        if path.is_file() and not path.name.startswith("."):
            files[path.name] = _send(remote, path, there)
    new = RemoteManifest(files=files)
    present = remote.hashes()
    if remote.get(MANIFEST) != committed or not new.hashes <= present:
        rule = "another push changed it meanwhile; wait for that one, and push again"
        raise StorageError(f"storage {url}: {rule}")
    remote.put(MANIFEST, new.model_dump_json(indent=1).encode())
    remote.delete(present - new.hashes)  # what a push that was killed had sent, too
    return f"{url}: {counted(len(files), 'file')}, {counted(len(new.hashes - there), 'piece')} sent"


def _parse(manifest: bytes, url: str) -> RemoteManifest:
    try:
        return RemoteManifest.model_validate_json(manifest or b'{"files": {}}')
    except ValidationError as error:
        reason = f"{MANIFEST} cannot be used ({first_problem(error)})"
        raise CheckpointError(f"{url}: {reason}") from None


def _check_same_run(paths: RunPaths, old: RemoteManifest, url: str) -> None:
    """Raise SettingError where the copy is that of another run, or of a later step."""
    file = paths.environment  # written once in a run's life
    theirs = max((step_of(Path(name).parent) for name in old.files if "/" in name), default=-1)
    mine = max(map(step_of, list_checkpoints(paths.checkpoints)), default=-1)
    identity = old.files.get(file.name)
    rule = f"has step {theirs} and {paths.root} step {mine}" if mine < theirs else ""
    if identity and bytewise.damage(file, identity.size, [identity.sha256]):
        rule = f"holds another run than {paths.root}"
    if rule:
        raise SettingError("URL", rule, url, "give another URL, or --overwrite to replace it")


def _send_checkpoint(remote: Remote, path: Path, there: set[str]) -> dict[str, FileEntry]:
    """Send a checkpoint whose every byte is right; raises CheckpointError, FileNotFoundError."""
    if problems := damage(path):
        path.stat()  # or was it deleted?
        reason = f"checkpoint {path.name} damaged: {'; '.join(problems)}"
        raise CheckpointError(f"{reason}; remove it, and push again")
    names = [*read_manifest(path).files, MANIFEST]
    return {f"checkpoints/{path.name}/{name}": _send(remote, path / name, there) for name in names}


def _send(remote: Remote, path: Path, there: set[str]) -> FileEntry:
    """Send what a file holds at this moment, but nothing that is there."""
    whole, chunks, size = hashlib.sha256(), [], 0
    with bytewise.open_regular(path) as file:
        end = os.fstat(file.fileno()).st_size
        while data := file.read(min(CHUNK, end - size)):
            chunks.append(hashlib.sha256(data).hexdigest())
            whole.update(data)
            size += len(data)
            if chunks[-1] not in there:
                remote.put(f"data/{chunks[-1]}", data)
    return FileEntry(size=size, sha256=whole.hexdigest(), chunks=tuple(chunks))


def pull(url: str, run: Path, *, timeout: float = 60.0) -> str:
    """Fetch the run that `push` put at a URL, whole or not at all; return what was done.

    Every byte is compared with its hash. Raises SettingError unless `run` is new or empty,
    CheckpointError, StorageError.
    """
    hint = "give another directory"
    check_directory(run, "run", lambda _: True, overwrite=False, hint=hint, setting="RUN")
    remote, disk, run = Remote(url, timeout), Disk(), run.resolve()
    files = _parse(remote.get(MANIFEST), url).files
    if not files:
        raise CheckpointError(f"{url}: no run is there; `lengthen push RUN {url}` puts it there")
    temporary = temporary_beside(run)
    try:
        for name, entry in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            disk.write_file(temporary / name, _pieces(remote, name, entry))
        disk.replace_directory(temporary, run)
    except BaseException:
        disk.remove(temporary)
        raise
    return f"{run}: {counted(len(files), 'file')}"


def _pieces(remote: Remote, name: str, entry: FileEntry) -> Iterator[bytes]:
    """Yield the bytes of a file; raises CheckpointError where some are missing or others."""
    for chunk in entry.chunks:
        data = remote.get(f"data/{chunk}")
        if hashlib.sha256(data).hexdigest() != chunk:
            rule = f"{name} {'is damaged' if data else 'lacks a piece'}"
            way_out = "pull again, or send all of it again by `lengthen push --overwrite`"
            raise CheckpointError(f"{remote.url}: {rule}; {way_out}")
        yield data
