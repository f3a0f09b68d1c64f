"""Write and delete checkpoints: each is on the disk whole or not at all.

A checkpoint is written under a temporary name, every file synced, given a manifest with size and
SHA-256 of each, and renamed; from the rename on it exists. Only then are older ones deleted.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from lengthen.checkpoint.read import FORMAT, SUFFIX, State, Tensors
from lengthen.checkpoint.verify import (
    MANIFEST,
    damage,
    json_bytes,
    list_checkpoints,
    manifest_bytes,
    name_of,
    step_of,
)
from lengthen.distributed.context import SINGLE_PROCESS, DistributedContext
from lengthen.util.disk import FULL, Disk, Written, reason_of
from lengthen.util.errors import StorageError

OTHER_FILES = 2**16  # bytes of a checkpoint that are no tensor: headers, state, manifest
DTYPES = {torch.float32: "F32", torch.float64: "F64"}  # of weights and moments, as files name it
SPARE = 1.1  # free space asked for before a save, in sizes of the checkpoint
BeforeWrite = Callable[[], None]


def write_checkpoint(
    disk: Disk,
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensors],
    state: State,
    context: DistributedContext = SINGLE_PROCESS,
    before: BeforeWrite | None = None,
) -> Path:
    """Write the checkpoint of `step` and return its path once it exists; raises StorageError.

    Rank 0 calls `before` first, to put what the checkpoint counts on onto the disk. A checkpoint
    of this step that verifies already is kept as it is. Every rank calls this at the same step:
    sharded, each writes its own shards in `tensors`, otherwise rank 0 writes, and `state` is that
    of rank 0. Where one rank fails, all of them raise.
    """
    target = folder / name_of(step)
    mine = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    size = int((mine * (context.world_size if context.sharded else 1) + OTHER_FILES) * SPARE)
    with _size_in_message_if_full(folder, size):
        temporary = _make_temporary(disk, target, size, context, before)
        if temporary is not None:
            _write_and_commit(disk, temporary, target, tensors, state, context)
    return target


def _make_temporary(
    disk: Disk, target: Path, size: int, context: DistributedContext, before: BeforeWrite | None
) -> Path | None:
    """Return the temporary directory that all ranks write into; None: the checkpoint is there."""
    token = 0
    with _failing_together(context, f"checkpoint {target.name}"):
        if context.is_rank_zero and before is not None:
            before()
        if context.is_rank_zero and damage(target):
            token = 1 + secrets.randbelow(2**62)
            _prepare_folder(disk, target.parent, size)
            disk.make_directory(_temporary(target, token))
    token = context.broadcast(token)
    return _temporary(target, token) if token else None


def _prepare_folder(disk: Disk, folder: Path, size: int) -> None:
    if not folder.exists():
        folder.parent.stat()  # a run's directory that has vanished is not made anew
        disk.make_directory(folder)
        disk.sync_directory(folder.parent)
    if shutil.disk_usage(folder).free < size:
        raise _too_full(folder, size)


def _temporary(target: Path, token: int) -> Path:
    return target.parent / f".tmp-{target.name}-{token:016x}"


def _write_and_commit(
    disk: Disk,
    temporary: Path,
    target: Path,
    tensors: Mapping[str, Tensors],
    state: State,
    context: DistributedContext,
) -> None:
    try:
        written = _write_tensors(disk, temporary, tensors, context)
        with _failing_together(context, f"checkpoint {target.name}"):
            if context.is_rank_zero:
                _commit(disk, temporary, target, written, state)
    except Exception:
        if context.is_rank_zero:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_tensors(
    disk: Disk, temporary: Path, tensors: Mapping[str, Tensors], context: DistributedContext
) -> dict[str, Written]:
    """Write the tensors of this rank; return what all ranks wrote, by file."""
    mine: dict[str, tuple[int, str]] = {}
    whose = ""
    if context.sharded and context.world_size > 1:
        whose = f"-r{context.rank:05d}-of-{context.world_size:05d}"
    with _failing_together(context, f"its part of {temporary.name}"):
        for group, named in tensors.items() if context.is_rank_zero or context.sharded else ():
            name = f"{group}{whose}{SUFFIX}"
            written = disk.write_file(temporary / name, safetensors_of(named))
            mine[name] = written.size, written.sha256
    ranks = map(json.loads, context.all_gather_text(json.dumps(mine)))
    return {name: Written(*figures) for files in ranks for name, figures in files.items()}


def safetensors_of(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file of `tensors`, a piece for each.

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


@contextmanager
def _failing_together(context: DistributedContext, what: str) -> Iterator[None]:
    """Raise StorageError on every rank where the block failed on one of them, with its reason."""
    failure: StorageError | None = None
    try:
        yield
    except StorageError as error:
        failure = error
    except FileNotFoundError as error:
        way_out = "put it back, or run the command again elsewhere"
        failure = StorageError(f"storage {error.filename}: it has vanished; {way_out}")
    except OSError as error:  # whatever it is, the others must not wait
        failure = StorageError(f"storage {error.filename}: {reason_of(error)}")
    reasons = context.all_gather_text(str(failure or ""))
    if failure is not None:
        raise failure
    for rank, reason in enumerate(reasons):
        if reason:
            raise StorageError(f"rank {rank} could not write {what}: {reason}")


def _commit(
    disk: Disk, temporary: Path, target: Path, written: Mapping[str, Written], state: State
) -> None:
    """Write the state, and last the manifest; then give the directory its name."""
    step = step_of(target)
    whole = json_bytes({**state, "format": FORMAT, "step": step})
    every = {**written, "state.json": disk.write_file(temporary / "state.json", whole)}
    entries = {name: {"size": w.size, "sha256": w.sha256} for name, w in sorted(every.items())}
    manifest = {"format": FORMAT, "step": step, "files": entries}
    disk.write_file(temporary / MANIFEST, manifest_bytes(manifest))
    if target.exists():
        delete_checkpoint(disk, target)  # damaged, or it would have been kept
    disk.commit_directory(temporary, target)


@contextmanager
def _size_in_message_if_full(folder: Path, size: int) -> Iterator[None]:
    """Give the bytes that a checkpoint needs where the disk fills up while it is written."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in FULL:
            raise
        raise _too_full(folder, size, f"{reason_of(cause)}; ") from cause


def _too_full(folder: Path, size: int, reason: str = "") -> StorageError:
    free = shutil.disk_usage(folder.parent).free  # the folder itself may be what had no room
    needs = f"a checkpoint needs {size} bytes, {free} are free"
    way_out = "free some space and run the command again"
    return StorageError(f"storage {folder}: {reason}{needs}; {way_out}")


def delete_old(disk: Disk, folder: Path, keep: int, verified: set[str]) -> None:
    """Delete what is older than the newest `keep` good checkpoints; call it after a good save.

    Those in `verified`, by name, are known to be good; others are read whole, and added if so, but
    only where that decides something: the other ranks wait meanwhile.
    """
    paths, good = list_checkpoints(folder), 0
    if len(paths) <= keep:
        return
    for path in paths:
        if good == keep:
            delete_checkpoint(disk, path)
        elif path.name in verified or not damage(path):
            verified.add(path.name)
            good += 1


def delete_checkpoint(disk: Disk, path: Path) -> None:
    """Delete a checkpoint; it loses its name first, so a half-deleted one is never listed."""
    trash = path.parent / f".trash-{path.name}-{secrets.token_hex(4)}"
    disk.rename(path, trash)
    disk.sync_directory(path.parent)
    disk.remove(trash)


def supersede_after(disk: Disk, folder: Path, step: int) -> None:
    """Rename the checkpoints after `step`, from which the run now continues in another way.

    They stay on the disk as `superseded-step-...` until somebody deletes them.
    """
    for path in list_checkpoints(folder):
        if step_of(path) > step:
            disk.rename(path, folder / f"superseded-{path.name}-{secrets.token_hex(4)}")
            disk.sync_directory(folder)


def remove_incomplete(disk: Disk, folder: Path) -> None:
    """Delete what an interrupted save or deletion left; call it only as the run's owner."""
    for path in sorted(folder.glob(".t*-step-*")) if folder.exists() else []:
        disk.remove(path)
