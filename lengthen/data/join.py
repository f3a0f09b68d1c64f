"""`prepare --join`: the parts of one corpus, each written by itself, become one store."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lengthen.data.checks import DuplicateCounter
from lengthen.data.prepare import Summary
from lengthen.data.store import verify
from lengthen.data.store_manifest import (
    DOCUMENTS,
    MANIFEST,
    PARTS,
    Manifest,
    Part,
    Shard,
    manifest_bytes,
    read_manifest,
)
from lengthen.data.store_writer import check_amount, part_name
from lengthen.data.tokenizer_files import FILE_LIMIT, TOKENIZER
from lengthen.util.disk import Disk, as_path, read_limited
from lengthen.util.errors import DataError, SettingError

SUMS = ("empty", "skipped", "compared", "lost", "unknown", "spelled")  # of the parts' counts
OF_STORE = ("tokenizer", "dtype", "separator")
OPTIONS = ("sources", "valid_sources", "files", "valid", "seed", "field")


def join(
    folder: str | os.PathLike[str], *, overwrite: bool = False, disk: Disk | None = None
) -> Summary:
    """Make one store of the parts that `prepare` wrote into `folder`, by a manifest over them.

    Every byte of them is compared with its hash. Raises DataError for a part that is missing,
    damaged or made otherwise than the first, SettingError where there is none, StorageError.
    """
    folder, disk = as_path("join", folder), disk or Disk()
    parts = _parts(folder)
    if (folder / MANIFEST).exists() and not overwrite:
        hint = "--overwrite joins it again"
        raise SettingError("join", "must not be joined yet", str(folder), hint)
    manifests = _checked(parts)
    duplicates = DuplicateCounter()
    for part in parts:
        duplicates.add_saved(part / DOCUMENTS)
    sums = {name: sum(getattr(one.made, name) for one in manifests) for name in SUMS}
    made = manifests[0].made.model_copy(update=sums | duplicates.counts())
    shards = {name: _shards(parts, [getattr(one, name) for one in manifests]) for name in PARTS}
    check_amount(shards, made)
    content = manifests[0].model_dump(exclude={"id"}) | {"made": made.model_dump()}
    content |= {name: [shard.model_dump() for shard in shards[name]] for name in PARTS}
    disk.replace_file(folder / TOKENIZER, read_limited(parts[0] / TOKENIZER, FILE_LIMIT))
    disk.replace_file(folder / MANIFEST, manifest_bytes(content))
    return Summary(path=folder, manifest=read_manifest(folder))


def _checked(parts: list[Path]) -> list[Manifest]:
    """Return the manifests of parts whose every byte is right and that fit together."""
    with ThreadPoolExecutor() as pool:
        for number, problems in enumerate(pool.map(verify, parts), start=1):
            if problems:
                again = f"prepare it again with --part {number}/{len(parts)} --overwrite"
                reason = f"damaged: {'; '.join(problems)}; {again}"
                raise DataError(f"store {parts[number - 1]} {reason}")
    first, *_ = manifests = [read_manifest(part) for part in parts]
    for part, manifest in zip(parts, manifests, strict=True):
        if name := _difference(first, manifest):
            rule = f"was made with another {name} than {parts[0].name}"
            raise DataError(f"store {part}: {rule}; prepare all parts with the same options")
    return manifests


def _shards(parts: list[Path], of_parts: list[Part]) -> list[Shard]:
    """Return the shards of one part of the store, named from the folder that all lie in."""
    return [
        shard.model_copy(update={"file": f"{folder.name}/{shard.file}"})
        for folder, part in zip(parts, of_parts, strict=True)
        for shard in part.root
        if shard.tokens
    ]


def _parts(folder: Path) -> list[Path]:
    """Return the folders of all parts; raises DataError for one that is missing."""
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    counts = {
        int(found[1]) for name in names if (found := re.fullmatch(r"part-\d+-of-(\d+)", name))
    }
    if len(counts) != 1:
        rule = "must hold the parts of one division, as `lengthen prepare --part i/n` writes them"
        raise SettingError("join", rule, str(folder))
    (count,) = counts
    for number in range(1, count + 1):
        if part_name(number, count) not in names:
            again = f"prepare it with --part {number}/{count}"
            raise DataError(f"store {folder}: part {number} of {count} is missing; {again}")
    return [folder / part_name(number, count) for number in range(1, count + 1)]


def _difference(first: Manifest, other: Manifest) -> str | None:
    """Return the name of the first thing in which two parts differ that must be alike."""
    pairs = [(name, getattr(first, name), getattr(other, name)) for name in OF_STORE]
    pairs += [(name, getattr(first.made, name), getattr(other.made, name)) for name in OPTIONS]
    return next((name for name, one, two in pairs if one != two), None)
