"""Read checkpoints: every file is hashed before any tensor is used, and none is a pickle."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from lengthen.checkpoint.verify import (
    NAME,
    damage,
    first_bytes,
    list_checkpoints,
    name_of,
    newest_first,
    read_manifest,
    step_of,
)
from lengthen.distributed.context import SINGLE_PROCESS, DistributedContext
from lengthen.util.disk import reason_of, with_retries
from lengthen.util.errors import CheckpointError

FORMAT = 2
SUFFIX = ".safetensors"
NAMED = 5  # checkpoints in a message, the nearest
State = dict[str, Any]  # JSON
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint; its tensors are maps of its files, for the reader to copy from."""

    path: Path
    step: int
    state: State
    tensors: Mapping[str, Tensors]  # by file, without the suffix: "model", "optimizer"
    manifest_sha256: str


class ConcatenatedShards(Mapping[str, Tensor]):
    """Tensors by name, each concatenated from the shards of the ranks when it is asked for."""

    def __init__(self, ranks: Sequence[Tensors]) -> None:
        self._shards: dict[str, list[Tensor]] = {}
        for name, tensor in chain.from_iterable(tensors.items() for tensors in ranks):
            self._shards.setdefault(name, []).append(tensor)

    def __getitem__(self, name: str) -> Tensor:
        shards = self._shards[name]
        return shards[0] if len(shards) == 1 else torch.cat(shards)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)


def load_newest(
    folder: Path, context: DistributedContext = SINGLE_PROCESS
) -> tuple[Checkpoint, list[str]]:
    """Return the newest good checkpoint, and one line for each damaged one that is newer.

    All ranks take the same one, which each of them finds good. Raises CheckpointError, which lists
    every reason, where none is good.
    """
    reasons: list[str] = []
    for path in _list_on_rank_zero(folder, context):
        loaded = _load(path, context)
        if isinstance(loaded, Checkpoint):
            return loaded, [f"{reason}; using {path.name}" for reason in reasons]
        if path in list_checkpoints(folder):  # or training has deleted it meanwhile
            reasons.append(f"checkpoint {path.name} damaged: {loaded}")
    why = "; ".join(reasons) or "none was saved"
    raise CheckpointError(f"no usable checkpoint in {folder.parent}: {why}")


def load_step(folder: Path, name: str, context: DistributedContext = SINGLE_PROCESS) -> Checkpoint:
    """Return the checkpoint of that name, also as `step-70` or `70`; raises CheckpointError."""
    asked = 0
    if short := re.fullmatch(r"(?:step-)?([0-9]{1,18})", name):
        name = name_of(asked := int(short[1]))
    path = folder / name
    if context.any_rank(not (NAME.fullmatch(name) and path.is_dir())):
        nearest = sorted(list_checkpoints(folder), key=lambda p: abs(step_of(p) - asked))
        have = ", ".join(p.name for p in nearest[:NAMED]) or "none"
        raise CheckpointError(f"checkpoint {name}: not in {folder.parent}; there are: {have}")
    loaded = _load(path, context)
    if isinstance(loaded, str):
        raise CheckpointError(f"checkpoint {name} damaged: {loaded}; choose another one")
    return loaded


def load(
    folder: Path, name: str | None, context: DistributedContext = SINGLE_PROCESS
) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint called `name`, or what `load_newest` returns where it is None."""
    if name is None:
        return load_newest(folder, context)
    return load_step(folder, name, context), []


def _list_on_rank_zero(folder: Path, context: DistributedContext) -> Iterator[Path]:
    """Yield the checkpoints that rank 0 lists, on every rank: another's view may be stale."""
    if context.world_size == 1:
        yield from newest_first(folder)
        return
    steps = map(step_of, newest_first(folder) if context.is_rank_zero else ())
    while (step := context.broadcast(next(steps, -1))) >= 0:
        yield folder / name_of(step)


def _load(path: Path, context: DistributedContext) -> Checkpoint | str:
    """Return a checkpoint, or what is wrong with it on one of the ranks.

    Sharded, each rank hashes its share of the files, which are its own where as many ranks wrote
    them; otherwise each hashes all that it is going to use.
    """
    part = slice(context.rank, None, context.world_size) if context.sharded else slice(None)
    if problem := _first_problem(next(iter(damage(path, part)), ""), context):
        return problem
    loaded = _read(path)
    if problem := _first_problem(loaded if isinstance(loaded, str) else "", context):
        return problem
    assert isinstance(loaded, Checkpoint)
    seals = context.all_gather_text(loaded.manifest_sha256)
    return loaded if len(set(seals)) == 1 else "ranks see different ones under this name"


def _first_problem(problem: str, context: DistributedContext) -> str:
    """Return the problem of the first rank that has one, on every rank; empty if none has."""
    return next(filter(None, context.all_gather_text(problem)), "")


def _read(path: Path) -> Checkpoint | str:
    """Return a checkpoint whose files are good, or why it cannot be read any more."""
    try:
        manifest = read_manifest(path)
        state = _read_state(path)
        # Mapped, not read: of a sharded run each rank touches its own rows alone.
        groups: dict[str, list[Tensors]] = {}
        for file in (path / name for name in manifest.files if name.endswith(SUFFIX)):
            with_retries(partial(first_bytes, file, 1))  # the library's own error would not say why
            groups.setdefault(file.stem.partition("-r")[0], []).append(load_file(file))
    except OSError as error:  # it could be read a moment ago
        return reason_of(error)
    except (safetensors.SafetensorError, ValueError) as error:
        return str(error)
    tensors = {group: ConcatenatedShards(ranks) for group, ranks in groups.items()}
    return Checkpoint(path, step_of(path), state, tensors, manifest.sha256)


def _read_state(path: Path) -> State:
    state = None
    with suppress(ValueError, RecursionError):
        state = json.loads(with_retries((path / "state.json").read_bytes))
    if not isinstance(state, dict):
        raise ValueError("state.json is no JSON object")
    if state.get("format") != FORMAT:
        rule = f"has format {state.get('format')}, this version reads {FORMAT}"
        raise CheckpointError(f"checkpoint {path.name}: {rule}; use the version that wrote it")
    return state
