"""Arguments to sources: files, folders, globs, saved datasets, standard input; in a fixed order.

Names of splits are read as `datasets` reads them: one of its words in the name of the file or of a
folder above it, with anything but a letter on either side.
"""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, cast

from lengthen.data.store_manifest import MANIFEST
from lengthen.util.disk import storage_errors
from lengthen.util.errors import SettingError
from lengthen.util.overwrite import json_keys

Kind = Literal["txt", "jsonl", "parquet", "arrow", "dataset", "bin", "ds"]
KNOWN = (
    "name it by what it holds: .txt (plain text), .jsonl (a JSON object a line), these also .gz or "
    ".zst, .parquet or .arrow; of token ids .bin or .ds"
)

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}
# Not in titles, such as "The Test of Time", whose files are no splits.
WORD = re.compile(
    rf"(?<![a-z])(?<!\bthe[^a-z])({'|'.join(SPLIT_OF_WORD)})(?:set)?(?![a-z])"
    r"(?![^a-z\d.]+of[^a-z\d]+[a-z])"
)


@dataclass(frozen=True)
class Source:
    """One file, or one saved dataset, to read."""

    path: Path
    kind: Kind
    size: int  # bytes on the disk
    name: str  # for messages
    parent: str = "/"  # a folder; neither its name nor those above it were asked for
    is_stdin: bool = False  # its name says nothing


def find_sources(
    arguments: Sequence[str], stdin: Source | None = None
) -> tuple[list[Source], list[Path]]:
    """Return the sources that the arguments name, and the files in folders that are no text.

    An argument is a file, a folder (all files of known formats below it, by name), a glob, or `-`
    for `stdin`. Raises SettingError for one that names nothing.
    """
    sources: list[Source] = []
    ignored: list[Path] = []
    for argument in arguments:
        if argument == "-" and stdin:
            sources.append(stdin)
            continue
        parent = _parent_of_folder(argument)
        for path in _matches(argument):
            if not _is_folder(path):  # somebody named it, so it must be readable
                sources.append(_source(path, parent))
                continue
            for file in _walk(path, {path.resolve()}):
                # `datasets` caches rows of other files, or their numbers.
                cached = file.name.startswith("cache-") and file.suffix == ".arrow"
                readable = file.is_dir() or (_kind(file) and not cached)
                sources.append(_source(file, parent)) if readable else ignored.append(file)
    if ignored and not sources:
        rule = "is of no known format, like all files there"
        raise SettingError("source", rule, str(ignored[0]), KNOWN)
    return sources, ignored


def _matches(argument: str) -> list[Path]:
    path = Path(argument)
    if os.path.exists(argument):  # a name with brackets is a name first; never fails, as Path does
        return [path]
    matches = sorted(map(Path, glob.glob(argument, recursive=True)))
    if matches := [path for path in matches if not _is_store(path)]:
        return matches
    if glob.has_magic(argument):
        raise SettingError("source", "no file matches", argument)
    siblings = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
    close = get_close_matches(path.name, siblings, n=1)
    hint = f"did you mean {str(path.parent / close[0])!r}?" if close else ""
    raise SettingError("source", "no such file or folder", argument, hint)


def _parent_of_folder(argument: str) -> str:
    """Return what is above the folder that an argument names; of a file, nothing is known."""
    folder = os.path.abspath(argument)
    if os.path.isfile(folder):
        return "/"
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.path.dirname(folder)


def _is_folder(path: Path) -> bool:
    saved = (path / "dataset_info.json").is_file() and (path / "state.json").is_file()
    return path.is_dir() and not saved


def _is_store(path: Path) -> bool:
    """Say whether a path is that of a token store: beside its own sources, it is none of them."""
    manifest = path / MANIFEST
    return manifest.is_file() and "separator" in json_keys(manifest)


def _walk(folder: Path, walked: set[Path]) -> Iterator[Path]:
    """Yield the files and saved datasets below a folder, by name, no hidden ones and no stores.

    A link to a folder is followed, unless that is in one of `walked` or above: its documents would
    come again.
    """
    with storage_errors(folder):
        entries = sorted(folder.iterdir())
    if (folder / "dataset_dict.json").is_file():
        splits = [path for path in entries if path.is_dir()]
        if len(splits) > 1 and not all(split_of_name(path.name) for path in splits):
            # Which split trains is not ours to guess, and all of them might train on a test.
            hint = f"name one of its splits: {', '.join(map(str, splits))}"
            raise SettingError("source", "a dataset with splits of other names", str(folder), hint)
    for path in entries:
        if path.name.startswith(".") or _is_store(path):
            continue
        if path.is_symlink() and path.is_dir():
            real = path.resolve()
            if real in folder.resolve().parents or not walked.isdisjoint([real, *real.parents]):
                continue
            walked.add(real)
        if _is_folder(path):
            yield from _walk(path, walked)
        else:
            yield path


def _kind(path: Path) -> Kind | None:
    # One suffix of compression at most: what is packed twice would come out as bytes.
    match = re.search(
        r"\.(?:(txt|jsonl)(?:\.gz|\.zst)?|(parquet|arrow|bin|ds))$", path.name.lower()
    )
    return cast(Kind, match[1] or match[2]) if match else None


def _source(path: Path, parent: str) -> Source:
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.iterdir())
        return Source(path, "dataset", size, str(path), parent)
    if not path.exists():
        raise SettingError("source", "is a link to what is not there", str(path))
    if not path.is_file():
        rule = "must be a regular file, for it is read twice"
        raise SettingError("source", rule, str(path), "pipe it to `-` instead")
    kind = _kind(path)
    if kind is None:
        raise SettingError("source", "is of no known format", str(path), KNOWN)
    return Source(path, kind, path.stat().st_size, str(path), parent)


def split_of_name(name: str) -> str | None:
    """Return the split that a file's or folder's name says, if it says one."""
    words = WORD.findall(name.lower())
    # The last word counts: `train-dev` is a part of the training text that is kept out of it.
    return SPLIT_OF_WORD[words[-1]] if words else None


def _is_split_alone(name: str) -> bool:
    return bool(WORD.search(name.lower())) and not re.search("[a-z]", WORD.sub("", name.lower()))


def group_by_split(sources: Sequence[Source]) -> dict[str, list[Source]]:
    """Return the sources of each split, `train`, `validation` and `test`, by their names.

    All of them train where no name says validation or test, and where all are of one split: then
    that one was asked for. Raises SettingError where names do not say what is to be trained on.
    """
    pairs = list(zip(_splits(sources), sources, strict=True))
    splits = {split for split, _ in pairs}
    if len(splits) < 2 or splits <= {"train", None}:
        return {"train": list(sources), "validation": [], "test": []}
    if None in splits or "train" not in splits:
        split, first = next(pair for pair in pairs if pair[0] in ("validation", "test"))
        other = next(source for own, source in pairs if own not in ("train", split)).name
        rule = f"is a {split} split by its name, and beside it {other!r} is not named as training"
        hint = "name the files to train on alone, or rename what is no split; --valid-files takes "
        raise SettingError("source", rule, first.name, f"{hint}others")
    return {split: [source for own, source in pairs if own == split] for split in SPLIT_WORDS}


def _splits(sources: Sequence[Source]) -> Iterator[str | None]:
    """Yield what each name says, or else the folders above it.

    Not those that all of them are in, nor those above an argument.
    """
    paths = [os.path.abspath(source.path) for source in sources if not source.is_stdin]
    folders = [os.path.dirname(path) for path in paths]
    common = os.path.commonpath(folders) if folders else ""
    for source in sources:
        below = max(common, source.parent, key=len)
        names = Path(os.path.relpath(source.path, below)).parts[::-1]
        # What lies in `train/` trains, whatever words its own name has.
        surest = [*filter(_is_split_alone, names[1:]), *names]
        split = next(filter(None, map(split_of_name, surest)), None)
        yield "train" if source.is_stdin else split
