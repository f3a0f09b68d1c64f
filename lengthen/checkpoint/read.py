"""Checkpoints, as they are found: verified on load, no pickle.

Loading hashes every file before any tensor is used, names what is damaged, and takes the newest
good one.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from lengthen.distributed.context import SINGLE_PROCESS, DistributedContext
from lengthen.util.disk import patiently
from lengthen.util.errors import CheckpointError, shown

FORMAT = 2
MANIFEST_LIMIT = 2**24  # bytes
NAME = re.compile(r"step-(\d{8,18})")
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
SUFFIX = ".safetensors"
CHUNK = 2**22  # bytes hashed at a time
OTHER = "choose another one with --checkpoint"
State = dict[str, Any]  # JSON
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint; its tensors are maps of its files, for the reader to copy from."""

    path: Path
    step: int
    state: State
    tensors: Mapping[str, Tensors]  # by file, without the suffix: "model", "optimizer"
    seal: str  # its manifest's own SHA-256


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint's manifest says, its own hash verified."""

    seal: str
    files: Mapping[str, Mapping[str, Any]]  # by name: size and SHA-256


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


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """Return the file of a manifest: with the hash of all the rest in it."""
    return as_json({**manifest, "sha256": hashlib.sha256(as_json(manifest)).hexdigest()})


def as_json(value: object) -> bytes:
    """Return JSON as checkpoints have it: for equal values always the same bytes."""
    return json.dumps(value, allow_nan=False, sort_keys=True, indent=1).encode()


def listed(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first, by the number in the name."""
    entries = folder.iterdir() if folder.exists() else iter(())
    found = [path for path in entries if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def load_newest(
    folder: Path, context: DistributedContext = SINGLE_PROCESS
) -> tuple[Checkpoint, list[str]]:
    """Return the newest good checkpoint, and one line for each damaged one that was passed over.

    All ranks take the same one: good is what each of them finds good. Raises CheckpointError, which
    lists every reason, where none is good.
    """
    reasons: list[str] = []
    for path in _seen_by_first(folder, context):
        found = _verified(path, context)
        if isinstance(found, Checkpoint):
            return found, [f"{reason}; using {path.name}" for reason in reasons]
        reasons.append(f"checkpoint {path.name} damaged: {found}")
    why = "; ".join(reasons) if reasons else "none was saved"
    raise CheckpointError(f"no usable checkpoint in {folder.parent}: {why}")


def load_step(folder: Path, name: str, context: DistributedContext = SINGLE_PROCESS) -> Checkpoint:
    """Return the checkpoint of that name and no other; raises CheckpointError."""
    path = folder / name
    if context.any_rank(not NAME.fullmatch(name) or not os.path.isdir(path)):
        have = ", ".join(p.name for p in listed(folder)) or "none"
        raise CheckpointError(f"checkpoint {name}: not in {folder.parent}; there are: {have}")
    found = _verified(path, context)
    if isinstance(found, str):
        raise CheckpointError(f"checkpoint {name} damaged: {found}; choose another one")
    return found


def _seen_by_first(folder: Path, context: DistributedContext) -> Iterator[Path]:
    """Yield the checkpoints of the first rank's list on every rank: another's view may be stale."""
    if context.world_size == 1:
        yield from listed(folder)
        return
    names = listed(folder) if context.is_rank_zero else []
    steps = (int(path.name.removeprefix("step-")) for path in names)
    while (step := context.broadcast(next(steps, -1))) >= 0:
        yield folder / name_of(step)


def _verified(path: Path, context: DistributedContext) -> Checkpoint | str:
    """Return a checkpoint, or what is wrong with it: what one rank finds counts for all.

    Where each rank holds a part of the weights, each hashes its share of the files, which are its
    own where as many ranks wrote them; otherwise each hashes all that it is going to use.
    """
    told = _told(context, next(_problems(path, context), ""))
    if told:
        return told
    found = _read(path)
    told = _told(context, found)
    if isinstance(found, str) or told:
        return told
    seen = context.all_gather_text(found.seal)
    return found if len(set(seen)) == 1 else "ranks see different ones under this name"


def _told(context: DistributedContext, found: object) -> str:
    """Return the first problem that a rank has found, on every rank; empty if none has."""
    problems = context.all_gather_text(found if isinstance(found, str) else "")
    return next(filter(None, problems), "")


def _read(path: Path) -> Checkpoint | str:
    """Return a checkpoint whose files are good, or why it cannot be read any more."""
    try:
        manifest = _manifest(path)
        state = _state(path)
        _must_be_ours(path, state)
        # Mapped, not read: of a sharded run each rank touches its own rows alone.
        parts: dict[str, dict[str, Tensors]] = {}  # whose: "", or rank and world
        for file in (path / name for name in manifest.files if name.endswith(SUFFIX)):
            group, _, whose = file.stem.partition("-r")
            patiently(partial(_beginning, file, 1))  # the library's own error would not say why
            parts.setdefault(group, {})[whose] = load_file(file)
    except OSError as error:  # it could be read a moment ago
        return reason_of(error)
    except (safetensors.SafetensorError, ValueError) as error:
        return str(error)
    tensors = {group: Joined(list(ranks.values())) for group, ranks in parts.items()}
    step = int(path.name.removeprefix("step-"))
    return Checkpoint(path, step, state, tensors, manifest.seal)


def _must_be_ours(path: Path, state: State) -> None:
    if state.get("format") != FORMAT:
        found = f"has format {state.get('format')}, this version reads {FORMAT}"
        raise CheckpointError(f"checkpoint {path.name}: {found}; use the version that wrote it")


def _state(path: Path) -> State:
    try:
        state = json.loads(patiently((path / "state.json").read_bytes))
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise ValueError("state.json is no JSON object")
    return state


def damage(path: Path) -> list[str]:
    """Return what is wrong with a checkpoint, every byte against its manifest; nothing if good."""
    return list(_problems(path))


def _problems(path: Path, context: DistributedContext = SINGLE_PROCESS) -> Iterator[str]:
    """Yield what is wrong with the files of a checkpoint that this rank is to hash."""
    try:
        files = _manifest(path).files.items()
        mine = islice(files, context.rank, None, context.world_size) if context.sharded else files
        for name, entry in mine:
            yield from _wrong(path / name, entry)
    except OSError as error:
        yield f"manifest.json {reason_of(error)}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield f"manifest.json: {error or type(error).__name__}"


def reason_of(error: OSError) -> str:
    """Return what the system says of a failure, for the middle of a sentence."""
    return (error.strerror or str(error)).lower()


def extra_files(path: Path) -> list[str]:
    """Return files of a good checkpoint that its manifest does not know."""
    known = {*_manifest(path).files, "manifest.json"}
    return sorted(entry.name for entry in path.iterdir() if entry.name not in known)


def _manifest(path: Path) -> Manifest:
    data = patiently(lambda: _beginning(path / "manifest.json", MANIFEST_LIMIT + 1))
    if len(data) > MANIFEST_LIMIT:
        raise ValueError(f"larger than {MANIFEST_LIMIT} bytes")
    manifest = json.loads(data)
    seal = manifest.pop("sha256")
    if hashlib.sha256(as_json(manifest)).hexdigest() != seal:
        raise ValueError("sha256 differs")
    if name_of(manifest["step"]) != path.name:
        raise ValueError(f"is that of step {manifest['step']}")
    files: dict[str, dict[str, Any]] = manifest["files"]
    for name in files:
        if not FILE_NAME.fullmatch(name):
            raise ValueError(f"names the file {shown(name)}")
    return Manifest(seal, files)


def _wrong(path: Path, entry: Mapping[str, Any]) -> Iterator[str]:
    try:
        size, sha256 = patiently(lambda: _figures(path, entry["size"]))
    except OSError as error:
        yield f"{path.name} {reason_of(error)}"
        return
    if size != entry["size"]:
        yield f"{path.name} has {size} bytes, should have {shown(entry['size'])}"
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
