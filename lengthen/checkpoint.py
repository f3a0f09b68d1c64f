"""Checkpoints: whole or not at all, verified on load, no pickle.

A checkpoint is written under a temporary name, every file synced, given a manifest with size and
SHA-256 of each, and renamed; the rename is the moment it exists. Only then are older ones rotated.
Loading hashes every file before any tensor is used, names what is damaged, and takes the newest
good one.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import load as parse_tensors
from torch import Tensor

from lengthen.devices import Place
from lengthen.disk import FULL, Disk, Written, patiently
from lengthen.errors import CheckpointError, StorageError, shown

FORMAT = 1
MANIFEST_LIMIT = 2**24  # bytes
NAME = re.compile(r"step-(\d{8,})")
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
CHUNK = 2**22  # bytes hashed at a time
BESIDE = 2**16  # bytes of a checkpoint that are no tensor: headers, state, manifest
DTYPES = {torch.float32: "F32", torch.float64: "F64"}  # of weights and moments, as files say it
OTHER = "choose another one with --checkpoint"
SPARE = 1.1  # free space asked for before a save, in sizes of the checkpoint

State = dict[str, Any]  # JSON
Tensors = Mapping[str, Tensor]
ALONE = Place(torch.device("cpu"))


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory."""

    path: Path
    step: int
    state: State
    tensors: Mapping[str, Tensors]  # by file, without the suffix: "model", "optimizer"


class Joined(Mapping[str, Tensor]):
    """Tensors by name, each put together from what the ranks held, when it is asked for."""

    def __init__(self, parts: Sequence[Tensors]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Tensor:
        held = [part[name] for part in self._parts if name in part]
        if not held:
            raise KeyError(name)
        return held[0] if len(held) == 1 else torch.cat(held)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for part in self._parts for name in part))

    def __len__(self) -> int:
        return len(list(iter(self)))


def name_of(step: int) -> str:
    """Return the directory name of the checkpoint of `step` finished steps."""
    return f"step-{step:08d}"


def save(
    disk: Disk,
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensors],
    state: State,
    place: Place = ALONE,
) -> Path:
    """Write the checkpoint of `step` and return its path once it is true; raises StorageError.

    A checkpoint of this step that verifies already is kept as it is. Every rank calls this at the
    same step: sharded, each writes the `tensors` that it holds, otherwise the first one writes, and
    `state` is that rank's. Where one fails, all of them raise.
    """
    target = folder / name_of(step)
    size = _size(tensors, place)
    with _figures_if_full(folder, size):
        temporary = _begin(disk, target, size, place)
        if temporary is None:
            return target
        try:
            written = _write_parts(disk, temporary, tensors, place)
            with _agreed(place, f"checkpoint {target.name}"):
                if place.is_first:
                    _seal(disk, temporary, step, written, state)
                    if target.exists():
                        discard(disk, target)  # damaged, or we would have kept it
                    disk.commit_directory(temporary, target)
        except Exception:
            if place.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
    return target


def _size(tensors: Mapping[str, Tensors], place: Place) -> int:
    """Return the free bytes that a save asks for."""
    mine = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    return int((mine * (place.world if place.sharded else 1) + BESIDE) * SPARE)


def _begin(disk: Disk, target: Path, size: int, place: Place) -> Path | None:
    """Return the temporary directory that all ranks write into; None: the checkpoint is there."""
    token = 0
    folder = target.parent
    with _agreed(place, f"checkpoint {target.name}"):
        if place.is_first and damage(target):
            if not folder.exists():
                folder.parent.stat()  # a run's directory that has vanished is not made anew
                disk.make_directory(folder)
                disk.sync_directory(folder.parent)
            if shutil.disk_usage(folder).free < size:
                raise _too_full(folder, size)
            token = 1 + secrets.randbelow(2**62)
            disk.make_directory(_temporary(target, token), private=True)
    token = place.first(token)
    return _temporary(target, token) if token else None


def _temporary(target: Path, token: int) -> Path:
    return target.parent / f".tmp-{target.name}-{token:016x}"


def _write_parts(
    disk: Disk, temporary: Path, tensors: Mapping[str, Tensors], place: Place
) -> dict[str, Written]:
    """Write what this rank holds; return what all ranks wrote, by file."""
    mine = [Written(0, "0" * 64) for _ in tensors]
    with _agreed(place, f"its part of {temporary.name}"):
        if place.is_first or place.sharded:
            mine = [
                disk.write_file(temporary / _part(group, place.rank, place), safetensors_of(held))
                for group, held in tensors.items()
            ]
    figures = [figure for written in mine for figure in (written.size, *_words(written.sha256))]
    written = {}
    for rank, row in enumerate(place.gathered(figures)):
        for number, group in enumerate(tensors):
            size, *words = row[5 * number : 5 * number + 5]
            if size:
                written[_part(group, rank, place)] = Written(size, _digest(words))
    return written


def safetensors_of(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file that holds `tensors`, a piece for each.

    The library's own writer copies everything twice, and all threads of the process stand still
    meanwhile. Pieces of tensors that lie in this process's memory are views of it.
    """
    header: dict[str, dict[str, object]] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        facts = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**facts, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            yield tensor.detach().cpu().contiguous().view(-1).numpy().data.cast("B")


def _part(group: str, rank: int, place: Place) -> str:
    whose = f"-r{rank:05d}-of-{place.world:05d}" if place.sharded and place.world > 1 else ""
    return f"{group}{whose}.safetensors"


def _words(sha256: str) -> list[int]:
    """Return a digest as the four numbers that ranks can exchange."""
    data = bytes.fromhex(sha256)
    return [int.from_bytes(data[n : n + 8], signed=True) for n in range(0, 32, 8)]


def _digest(words: Sequence[int]) -> str:
    return b"".join(word.to_bytes(8, signed=True) for word in words).hex()


@contextmanager
def _agreed(place: Place, what: str) -> Iterator[None]:
    """Raise on every rank where the block failed on one of them, which says why."""
    error: StorageError | None = None
    try:
        yield
    except StorageError as caught:
        error = caught
    except FileNotFoundError as caught:
        way_out = "put it back, or run the command again elsewhere"
        error = StorageError(f"storage {caught.filename}: it has vanished; {way_out}")
    failed = [rank for rank, (bad,) in enumerate(place.gathered([int(error is not None)])) if bad]
    if error is not None:
        raise error
    if failed:
        raise StorageError(f"rank {failed[0]} could not write {what}; its own line says why")


def _seal(
    disk: Disk, temporary: Path, step: int, written: Mapping[str, Written], state: State
) -> None:
    """Write the state, and last the manifest that makes the directory a checkpoint."""
    whole = _json({**state, "format": FORMAT, "step": step})
    every = {**written, "state.json": disk.write_file(temporary / "state.json", whole)}
    entries = {name: {"size": w.size, "sha256": w.sha256} for name, w in sorted(every.items())}
    manifest = {"format": FORMAT, "step": step, "files": entries}
    disk.write_file(temporary / "manifest.json", sealed(manifest))


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """Return the file of a manifest: with the hash of all the rest in it."""
    return _json({**manifest, "sha256": hashlib.sha256(_json(manifest)).hexdigest()})


def _json(value: object) -> bytes:
    return json.dumps(value, allow_nan=False, sort_keys=True, indent=1).encode()


@contextmanager
def _figures_if_full(folder: Path, size: int) -> Iterator[None]:
    """Say how much a save needs where the disk was found full in the middle of it."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in FULL:
            raise
        raise _too_full(folder, size, f"{_reason(cause)}; ") from cause


def _too_full(folder: Path, size: int, reason: str = "") -> StorageError:
    free = shutil.disk_usage(folder.parent).free  # the folder itself may be what found no room
    needs = f"a checkpoint needs {size} bytes, {free} are free"
    return StorageError(
        f"storage {folder}: {reason}{needs}; free some space and run the command again"
    )


def rotate(disk: Disk, folder: Path, keep: int, verified: set[str]) -> None:
    """Delete all but the newest `keep` good checkpoints; call it only after a good save.

    Those in `verified`, by name, are known to be good; others are read whole, and added if so.
    """
    verified |= {
        path.name for path in listed(folder) if path.name not in verified and not damage(path)
    }
    good = [path for path in listed(folder) if path.name in verified]
    for path in good[keep:]:
        discard(disk, path)


def discard(disk: Disk, path: Path) -> None:
    """Delete a checkpoint; it loses its name first, so a half-deleted one is never listed."""
    trash = path.parent / f".trash-{path.name}-{secrets.token_hex(4)}"
    disk.rename(path, trash)
    disk.sync_directory(path.parent)
    disk.remove(trash)


def set_aside(disk: Disk, folder: Path, after: int) -> None:
    """Take the checkpoints behind step `after` out of the list: the run goes another way now.

    They stay on the disk as `superseded-step-...` until somebody deletes them.
    """
    for path in listed(folder):
        if int(path.name.removeprefix("step-")) > after:
            disk.rename(path, folder / f"superseded-{path.name}-{secrets.token_hex(4)}")
            disk.sync_directory(folder)


def sweep(disk: Disk, folder: Path) -> None:
    """Delete what an interrupted save or rotation left; call it only as the run's owner."""
    for path in sorted(folder.glob(".t*-step-*")) if folder.exists() else []:
        disk.remove(path)


def listed(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first, by the number in the name."""
    entries = folder.iterdir() if folder.exists() else iter(())
    found = [path for path in entries if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def load_newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """Return the newest good checkpoint, and one line for each damaged one that was passed over.

    Raises CheckpointError, which lists every reason, where none is good.
    """
    reasons: list[str] = []
    for path in listed(folder):
        problem = next(_problems(path), None)
        if problem is None:
            try:
                return _read(path), [f"{reason}; using {path.name}" for reason in reasons]
            except OSError as error:  # it could be read a moment ago
                problem = _reason(error)
        reasons.append(f"checkpoint {path.name} damaged: {problem}")
    why = "; ".join(reasons) if reasons else "none was saved"
    raise CheckpointError(f"no usable checkpoint in {folder.parent}: {why}")


def load_step(folder: Path, name: str) -> Checkpoint:
    """Return the checkpoint of that name and no other; raises CheckpointError."""
    path = folder / name
    if not NAME.fullmatch(name) or not path.is_dir():
        have = ", ".join(p.name for p in listed(folder)) or "none"
        raise CheckpointError(f"checkpoint {name}: not in {folder.parent}; there are: {have}")
    problem = next(_problems(path), None)
    if problem is not None:
        raise CheckpointError(f"checkpoint {name} damaged: {problem}; choose another one")
    return _read(path)


def _read(path: Path) -> Checkpoint:
    state = _state(path)
    if state.get("format") != FORMAT:
        found = f"has format {state.get('format')}, this version reads {FORMAT}"
        raise CheckpointError(f"checkpoint {path.name}: {found}; use the version that wrote it")
    parts: dict[str, dict[str, Tensors]] = {}  # whose: "", or rank and world
    try:
        for file in sorted(path.glob("*.safetensors")):
            group, _, whose = file.stem.partition("-r")
            parts.setdefault(group, {})[whose] = parse_tensors(patiently(file.read_bytes))
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"checkpoint {path.name}: {error}") from None
    tensors = {group: Joined(list(ranks.values())) for group, ranks in parts.items()}
    return Checkpoint(path, int(path.name.removeprefix("step-")), state, tensors)


def _state(path: Path) -> State:
    try:
        state = json.loads(patiently((path / "state.json").read_bytes))
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path.name}: state.json is no JSON object; {OTHER}")
    return state


def damage(path: Path) -> list[str]:
    """Return what is wrong with a checkpoint, every byte against its manifest; nothing if good."""
    return list(_problems(path))


def _problems(path: Path) -> Iterator[str]:
    try:
        for name, entry in _manifest(path).items():
            yield from _wrong(path / name, entry)
    except OSError as error:
        yield f"manifest.json {_reason(error)}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield f"manifest.json: {error or type(error).__name__}"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def extra_files(path: Path) -> list[str]:
    """Return files of a good checkpoint that its manifest does not know."""
    known = {*_manifest(path), "manifest.json"}
    return sorted(entry.name for entry in path.iterdir() if entry.name not in known)


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    data = patiently(lambda: _beginning(path / "manifest.json", MANIFEST_LIMIT + 1))
    if len(data) > MANIFEST_LIMIT:
        raise ValueError(f"larger than {MANIFEST_LIMIT} bytes")
    manifest = json.loads(data)
    seal = manifest.pop("sha256")
    if hashlib.sha256(_json(manifest)).hexdigest() != seal:
        raise ValueError("sha256 differs")
    if name_of(manifest["step"]) != path.name:
        raise ValueError(f"is that of step {manifest['step']}")
    files: dict[str, dict[str, Any]] = manifest["files"]
    for name in files:
        if not FILE_NAME.fullmatch(name):
            raise ValueError(f"names the file {shown(name)}")
    return files


def _wrong(path: Path, entry: Mapping[str, Any]) -> Iterator[str]:
    try:
        size, sha256 = patiently(lambda: _figures(path, entry["size"]))
    except OSError as error:
        yield f"{path.name} {_reason(error)}"
        return
    if size != entry["size"]:
        yield f"{path.name} has {size} bytes, should have {entry['size']}"
    elif sha256 != entry["sha256"]:
        yield f"{path.name} sha256 differs"


def _figures(path: Path, expected: int) -> tuple[int, str]:
    """Return size and SHA-256 of a file; one of another size than expected is not read."""
    digest = hashlib.sha256()
    with _open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while size == expected and (data := file.read(CHUNK)):
            digest.update(data)
    return size, digest.hexdigest()


def _beginning(path: Path, limit: int) -> bytes:
    with _open_regular(path) as file:
        return file.read(limit)


def _open_regular(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "rb")
