"""How a checkpoint comes to be and goes: whole or not at all.

It is written under a temporary name, every file synced, given a manifest with size and SHA-256 of
each, and renamed; the rename is the moment it exists. Only then are older ones rotated.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from lengthen.checkpoint.read import (
    FORMAT,
    State,
    Tensors,
    as_json,
    damage,
    listed,
    name_of,
    reason_of,
    sealed,
)
from lengthen.distributed.context import SINGLE_PROCESS, DistributedContext
from lengthen.util.disk import FULL, Disk, Written
from lengthen.util.errors import StorageError

BESIDE = 2**16  # bytes of a checkpoint that are no tensor: headers, state, manifest
DTYPES = {torch.float32: "F32", torch.float64: "F64"}  # of weights and moments, as files say it
SPARE = 1.1  # free space asked for before a save, in sizes of the checkpoint
Ahead = Callable[[], None]  # what the first rank does before a save


def nothing() -> None:
    """Nothing has to be done before a save."""


def save(
    disk: Disk,
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensors],
    state: State,
    context: DistributedContext = SINGLE_PROCESS,
    ahead: Ahead = nothing,
) -> Path:
    """Write the checkpoint of `step` and return its path once it is true; raises StorageError.

    The first rank calls `ahead` before: what the checkpoint counts on goes onto the disk there.

    A checkpoint of this step that verifies already is kept as it is. Every rank calls this at the
    same step: sharded, each writes the `tensors` that it holds, otherwise the first one writes, and
    `state` is that rank's. Where one fails, all of them raise.
    """
    target = folder / name_of(step)
    size = _size(tensors, context)
    with _figures_if_full(folder, size):
        temporary = _begin(disk, target, size, context, ahead)
        if temporary is None:
            return target
        try:
            written = _write_parts(disk, temporary, tensors, context)
            with _agreed(context, f"checkpoint {target.name}"):
                if context.is_rank_zero:
                    _seal(disk, temporary, step, written, state)
                    if target.exists():
                        discard(disk, target)  # damaged, or we would have kept it
                    disk.commit_directory(temporary, target)
        except Exception:
            if context.is_rank_zero:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
    return target


def _size(tensors: Mapping[str, Tensors], context: DistributedContext) -> int:
    """Return the free bytes that a save asks for."""
    mine = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    return int((mine * (context.world_size if context.sharded else 1) + BESIDE) * SPARE)


def _begin(
    disk: Disk, target: Path, size: int, context: DistributedContext, ahead: Ahead
) -> Path | None:
    """Return the temporary directory that all ranks write into; None: the checkpoint is there."""
    token = 0
    folder = target.parent
    with _agreed(context, f"checkpoint {target.name}"):
        if context.is_rank_zero:
            ahead()
        if context.is_rank_zero and damage(target):
            if not folder.exists():
                folder.parent.stat()  # a run's directory that has vanished is not made anew
                disk.make_directory(folder)
                disk.sync_directory(folder.parent)
            if shutil.disk_usage(folder).free < size:
                raise _too_full(folder, size)
            token = 1 + secrets.randbelow(2**62)
            disk.make_directory(_temporary(target, token), private=True)
    token = context.broadcast(token)
    return _temporary(target, token) if token else None


def _temporary(target: Path, token: int) -> Path:
    return target.parent / f".tmp-{target.name}-{token:016x}"


def _write_parts(
    disk: Disk, temporary: Path, tensors: Mapping[str, Tensors], context: DistributedContext
) -> dict[str, Written]:
    """Write what this rank holds; return what all ranks wrote, by file."""
    mine = [Written(0, "0" * 64) for _ in tensors]
    with _agreed(context, f"its part of {temporary.name}"):
        if context.is_rank_zero or context.sharded:
            mine = [
                disk.write_file(
                    temporary / _part(group, context.rank, context), safetensors_of(held)
                )
                for group, held in tensors.items()
            ]
    figures = [figure for written in mine for figure in (written.size, *_words(written.sha256))]
    written = {}
    for rank, row in enumerate(context.all_gather(figures)):
        for number, group in enumerate(tensors):
            size, *words = row[5 * number : 5 * number + 5]
            if size:
                written[_part(group, rank, context)] = Written(size, _digest(words))
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


def _part(group: str, rank: int, context: DistributedContext) -> str:
    whose = (
        f"-r{rank:05d}-of-{context.world_size:05d}"
        if context.sharded and context.world_size > 1
        else ""
    )
    return f"{group}{whose}.safetensors"


def _words(sha256: str) -> list[int]:
    """Return a digest as the four numbers that ranks can exchange."""
    data = bytes.fromhex(sha256)
    return [int.from_bytes(data[n : n + 8], signed=True) for n in range(0, 32, 8)]


def _digest(words: Sequence[int]) -> str:
    return b"".join(word.to_bytes(8, signed=True) for word in words).hex()


@contextmanager
def _agreed(context: DistributedContext, what: str) -> Iterator[None]:
    """Raise on every rank where the block failed on one of them, with what that one says."""
    error: StorageError | None = None
    try:
        yield
    except StorageError as caught:
        error = caught
    except FileNotFoundError as caught:
        way_out = "put it back, or run the command again elsewhere"
        error = StorageError(f"storage {caught.filename}: it has vanished; {way_out}")
    except OSError as caught:  # whatever it is, the others must not wait
        error = StorageError(f"storage {caught.filename}: {reason_of(caught)}")
    told = context.all_gather_text(str(error or ""))
    if error is not None:
        raise error
    for rank, why in enumerate(told):
        if why:
            raise StorageError(f"rank {rank} could not write {what}: {why}")


def _seal(
    disk: Disk, temporary: Path, step: int, written: Mapping[str, Written], state: State
) -> None:
    """Write the state, and last the manifest that makes the directory a checkpoint."""
    whole = as_json({**state, "format": FORMAT, "step": step})
    every = {**written, "state.json": disk.write_file(temporary / "state.json", whole)}
    entries = {name: {"size": w.size, "sha256": w.sha256} for name, w in sorted(every.items())}
    manifest = {"format": FORMAT, "step": step, "files": entries}
    disk.write_file(temporary / "manifest.json", sealed(manifest))


@contextmanager
def _figures_if_full(folder: Path, size: int) -> Iterator[None]:
    """Say how much a save needs where the disk was found full in the middle of it."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in FULL:
            raise
        raise _too_full(folder, size, f"{reason_of(cause)}; ") from cause


def _too_full(folder: Path, size: int, reason: str = "") -> StorageError:
    free = shutil.disk_usage(folder.parent).free  # the folder itself may be what found no room
    needs = f"a checkpoint needs {size} bytes, {free} are free"
    return StorageError(
        f"storage {folder}: {reason}{needs}; free some space and run the command again"
    )


def rotate(disk: Disk, folder: Path, keep: int, verified: set[str]) -> None:
    """Delete what is older than the newest `keep` good checkpoints; call it after a good save.

    Those in `verified`, by name, are known to be good; others are read whole, and added if so, but
    only where that decides something: the other ranks wait meanwhile.
    """
    there, good = listed(folder), 0
    if len(there) <= keep:
        return
    for path in there:
        if good == keep:
            discard(disk, path)
        elif path.name in verified or not damage(path):
            verified.add(path.name)
            good += 1


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
