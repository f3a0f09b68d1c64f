"""Arguments to sources: files, folders, globs, saved datasets, standard input; in a fixed order."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from lengthen.disk import storage_errors
from lengthen.errors import SettingError, nearest

Kind = Literal["txt", "jsonl", "parquet", "dataset"]

SUFFIXES = (
    ".txt",
    ".txt.gz",
    ".txt.zst",
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".parquet",
)


@dataclass(frozen=True)
class Source:
    """One file, or one saved dataset, to read."""

    path: Path
    kind: Kind
    size: int  # bytes on the disk
    name: str  # for messages


def find(
    arguments: Sequence[str], standard_input: Source | None = None
) -> tuple[list[Source], list[Path]]:
    """Return the sources that the arguments name, and the files in folders that are no text.

    An argument is a file, a folder (all files of known formats below it, by name), a glob, or `-`
    for `standard_input`. Raises SettingError for one that names nothing.
    """
    sources: list[Source] = []
    ignored: list[Path] = []
    for argument in arguments:
        if argument == "-" and standard_input:
            sources.append(standard_input)
            continue
        for path in _matches(argument):
            inside = _is_folder(path)
            for file in _below(path) if inside else [path]:
                # A file that somebody named must be readable; one that lies in a folder need not.
                wanted = not inside or file.is_dir() or _kind(file)
                sources.append(_source(file)) if wanted else ignored.append(file)
    return sources, ignored


def _matches(argument: str) -> list[Path]:
    path = Path(argument)
    if os.path.exists(argument):  # a name with brackets is a name first; never fails, as Path does
        return [path]
    found = sorted(Path(name) for name in glob.glob(argument, recursive=True))
    if found:
        return found
    if glob.has_magic(argument):
        raise SettingError("source", "no file matches", argument)
    siblings = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
    close = get_close_matches(path.name, siblings, n=1)
    hint = f"did you mean {str(path.parent / close[0])!r}?" if close else ""
    raise SettingError("source", "no such file or folder", argument, hint)


def _is_dataset(path: Path) -> bool:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        # Which split trains is not ours to guess, and all of them would train on the test.
        hint = f"name one of its splits: {', '.join(str(path / split) for split in splits)}"
        raise SettingError("source", "a dataset with splits", str(path), hint)
    return (path / "dataset_info.json").is_file() and (path / "state.json").is_file()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not _is_dataset(path)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files and saved datasets below a folder, by name, without hidden ones."""
    with storage_errors(folder):
        entries = sorted(folder.iterdir())
    for path in entries:
        # A link to a folder above would give its documents again and again.
        if path.name.startswith(".") or (path.is_symlink() and path.is_dir()):
            continue
        if _is_folder(path):
            yield from _below(path)
        else:
            yield path


def _kind(path: Path) -> Kind | None:
    # One suffix of compression at most: what is packed twice would come out as bytes.
    match = re.search(r"\.(txt|jsonl)(\.gz|\.zst)?$", path.name.lower())
    if match:
        return "txt" if match[1] == "txt" else "jsonl"
    return "parquet" if path.name.lower().endswith(".parquet") else None


def _source(path: Path) -> Source:
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.iterdir())
        return Source(path, "dataset", size, str(path))
    if not path.is_file():
        rule = "must be a regular file, for it is read twice"
        raise SettingError("source", rule, str(path), "pipe it to `-` instead")
    kind = _kind(path)
    if kind is None:
        suffix = "".join(path.suffixes[-2:])
        hint = nearest(suffix, SUFFIXES)
        raise SettingError("source", f"unknown format {suffix!r}", str(path), hint)
    return Source(path, kind, path.stat().st_size, str(path))
