"""Arguments to sources: files, folders, globs, saved datasets, standard input; in a fixed order."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, cast

from lengthen.util.disk import storage_errors
from lengthen.util.errors import SettingError, nearest

Kind = Literal["txt", "jsonl", "parquet", "arrow", "dataset"]

SUFFIXES = (
    ".txt",
    ".txt.gz",
    ".txt.zst",
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".parquet",
    ".arrow",
)

# What `datasets` takes for the name of a split.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLITS = {word: split for split, words in WORDS.items() for word in words}
# Not in titles, such as "The Test of Time", whose files are no splits.
WORD = re.compile(
    rf"(?<![a-z])(?<!\bthe[^a-z])({'|'.join(SPLITS)})(?:set)?(?![a-z])(?![^a-z\d.]+of[^a-z\d]+[a-z])"
)


@dataclass(frozen=True)
class Source:
    """One file, or one saved dataset, to read."""

    path: Path
    kind: Kind
    size: int  # bytes on the disk
    name: str  # for messages
    above: str = "/"  # a folder; neither its name nor those above it were asked for
    piped: bool = False  # standard input, which says nothing by its name


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
        above = _above(argument)
        for path in _matches(argument):
            inside = _is_folder(path)
            for file in _below(path) if inside else [path]:
                # A file that somebody named must be readable; one that lies in a folder need not.
                wanted = not inside or file.is_dir() or (_kind(file) and not _is_cache(file))
                sources.append(_source(file, above)) if wanted else ignored.append(file)
    if ignored and not sources:
        rule = "is of no known format, like all files there"
        raise SettingError("source", rule, str(ignored[0]), _rename(ignored[0]))
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


def _above(argument: str) -> str:
    """Return what is above the folder that an argument names; of a file, nothing is known."""
    folder = os.path.abspath(argument)
    if os.path.isfile(folder):
        return "/"
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.path.dirname(folder)


def _is_dataset(path: Path) -> bool:
    return (path / "dataset_info.json").is_file() and (path / "state.json").is_file()


def split_of(name: str) -> str | None:
    """Return the split that a file's or folder's name says, if it says one."""
    words = WORD.findall(name.lower())
    # The last word counts: `train-dev` is a part of the training text that is held out.
    return SPLITS[words[-1]] if words else None


def is_split_alone(name: str) -> bool:
    """Say whether a name has no other word than that of a split."""
    return bool(WORD.search(name.lower())) and not re.search("[a-z]", WORD.sub("", name.lower()))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not _is_dataset(path)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files and saved datasets below a folder, by name, without hidden ones."""
    with storage_errors(folder):
        entries = sorted(folder.iterdir())
    if (folder / "dataset_dict.json").is_file():
        _must_be_known(folder, [path for path in entries if path.is_dir()])
    for path in entries:
        # A link to a folder above would give its documents again and again.
        if path.name.startswith(".") or (path.is_symlink() and path.is_dir()):
            continue
        if _is_folder(path):
            yield from _below(path)
        else:
            yield path


def _is_cache(path: Path) -> bool:
    # What `datasets` leaves of `map` and `filter`: rows of other files again, or their numbers.
    return path.name.startswith("cache-") and path.suffix == ".arrow"


def _must_be_known(folder: Path, splits: list[Path]) -> None:
    if len(splits) > 1 and not all(split_of(path.name) for path in splits):
        # Which split trains is not ours to guess, and all of them might train on a test.
        hint = f"name one of its splits: {', '.join(map(str, splits))}"
        raise SettingError("source", "a dataset with splits of other names", str(folder), hint)


def _kind(path: Path) -> Kind | None:
    # One suffix of compression at most: what is packed twice would come out as bytes.
    match = re.search(r"\.(?:(txt|jsonl)(?:\.gz|\.zst)?|(parquet|arrow))$", path.name.lower())
    return cast(Kind, match[1] or match[2]) if match else None


def _source(path: Path, above: str) -> Source:
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.iterdir())
        return Source(path, "dataset", size, str(path), above)
    if not path.is_file():
        rule = "must be a regular file, for it is read twice"
        raise SettingError("source", rule, str(path), "pipe it to `-` instead")
    kind = _kind(path)
    if kind is None:
        raise SettingError("source", f"unknown format {_suffix(path)!r}", str(path), _rename(path))
    return Source(path, kind, path.stat().st_size, str(path), above)


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:] if path.suffix in (".gz", ".zst") else path.suffixes[-1:])


def _rename(path: Path) -> str:
    return (
        "rename it by what it holds (.txt is plain text, .jsonl has a JSON object a line): "
        f"{nearest(_suffix(path), SUFFIXES)}"
    )
