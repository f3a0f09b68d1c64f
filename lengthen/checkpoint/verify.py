"""The files of a checkpoint against its manifest, every byte; no torch, which takes seconds.

A checkpoint is a directory `step-...` with a manifest.json that gives size and SHA-256 of every
other file, and its own.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthen.config.load import load_run
from lengthen.data import store, store_manifest
from lengthen.run.directory import RunPaths
from lengthen.util import manifest
from lengthen.util.disk import reason_of, with_retries
from lengthen.util.errors import CheckpointError, DataError, SettingError, shown

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 2**24  # bytes
NAME = re.compile(r"step-(\d{8,18})")
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint's manifest lists, its own hash verified."""

    sha256: str  # its own
    files: Mapping[str, Mapping[str, Any]]  # by name: size and SHA-256


def verify(path: Path) -> list[str]:
    """Return one line for each thing that is whole in a token store, a run or a checkpoint.

    Raises DataError for a damaged store, CheckpointError for a damaged checkpoint, both with every
    problem, and SettingError where `path` is none of these.
    """
    if RunPaths(path).config.is_file():
        while checkpoints := list_checkpoints(RunPaths(path).checkpoints):
            if lines := _verify_checkpoints(checkpoints):
                return lines
        load_run(RunPaths(path).config)  # refuses the run of another training loop
        raise CheckpointError(f"no checkpoint in {path}; none was saved yet")
    whole = path.resolve()  # "." too
    if NAME.fullmatch(whole.name) and (lines := _verify_checkpoints([whole])):
        return lines
    if (path / store_manifest.MANIFEST).exists():
        if problems := store.verify(path):
            raise DataError(f"store {path} damaged: {'; '.join(problems)}; prepare it again")
        extra = [f"warning: {path} also has {name}" for name in store.extra_files(path)]
        return [f"store {path}: every byte as its manifest says", *extra]
    raise SettingError("DIR", "must be a token store, a run or a checkpoint", str(path))


def _verify_checkpoints(paths: list[Path]) -> list[str]:
    """Return a line for each that is whole; none for one that training deletes meanwhile."""
    problems = {path: damage(path) for path in paths}
    there = [path for path in paths if path in list_checkpoints(path.parent)]
    damaged = [f"{path.name}: {problem}" for path in there for problem in problems[path]]
    if damaged:
        way_out = "" if all(map(problems.get, there)) else "; resume uses the newest good one"
        raise CheckpointError(f"damaged: {'; '.join(damaged)}{way_out}")
    whole = [f"checkpoint {path.name}: every byte as its manifest says" for path in there]
    return whole + [
        f"warning: {path.name} also has {name}" for path in there for name in extra_files(path)
    ]


def name_of(step: int) -> str:
    """Return the directory name of the checkpoint of `step` finished steps."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint's directory."""
    return int(path.name.removeprefix("step-"))


def newest_first(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints of a run, and after them what training has saved meanwhile."""
    known: set[Path] = set()
    while new := [path for path in list_checkpoints(folder) if path not in known]:
        known.update(new)
        yield from new


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first, by the number in the name."""
    entries = folder.iterdir() if folder.exists() else iter(())
    return sorted((p for p in entries if NAME.fullmatch(p.name)), key=step_of, reverse=True)


def json_bytes(value: object) -> bytes:
    """Return JSON as checkpoints have it: for equal values always the same bytes."""
    return json.dumps(value, allow_nan=False, sort_keys=True, indent=1).encode()


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest.json, which has the hash of all the rest in it."""
    return json_bytes({**manifest, "sha256": hashlib.sha256(json_bytes(manifest)).hexdigest()})


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the checkpoint in `path`; raises OSError, ValueError and the like."""
    data = with_retries(lambda: first_bytes(path / MANIFEST, MANIFEST_LIMIT + 1))
    if len(data) > MANIFEST_LIMIT:
        raise ValueError(f"larger than {MANIFEST_LIMIT} bytes")
    content = json.loads(data)
    sha256 = content.pop("sha256")
    if hashlib.sha256(json_bytes(content)).hexdigest() != sha256:
        raise ValueError("sha256 differs")
    if name_of(content["step"]) != path.name:
        raise ValueError(f"is that of step {content['step']}")
    files: dict[str, dict[str, Any]] = content["files"]
    for name in files:
        if not FILE_NAME.fullmatch(name):
            raise ValueError(f"names the file {shown(name)}")
    return Manifest(sha256, files)


def damage(path: Path, part: slice = slice(None)) -> list[str]:
    """Return what is wrong with a checkpoint, every byte against its manifest; nothing if good.

    Of the manifest's files those of `part` are hashed.
    """
    try:
        files = list(read_manifest(path).files.items())[part]
        return [
            problem
            for name, entry in files
            for problem in manifest.damage(path / name, entry["size"], [entry["sha256"]])
        ]
    except OSError as error:
        return [f"{MANIFEST} {reason_of(error)}"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [f"{MANIFEST}: {error or type(error).__name__}"]


def extra_files(path: Path) -> list[str]:
    """Return files of a good checkpoint that its manifest does not list."""
    known = {*read_manifest(path).files, MANIFEST}
    return sorted(entry.name for entry in path.iterdir() if entry.name not in known)


def first_bytes(path: Path, limit: int) -> bytes:
    """Return at most `limit` bytes of a regular file; raises OSError for anything else."""
    with manifest.open_regular(path) as file:
        return file.read(limit)
