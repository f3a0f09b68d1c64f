"""Which of the files that were found may be trained on: no held-out split, and none of them twice.

Names of splits are read as `datasets` reads them: one of its words in the name of the file or of a
folder above it, with anything but a letter on either side.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lengthen.data.sources import WORDS, Source, is_split_alone, split_of
from lengthen.data.unpack import PACKINGS, RefusedError, Unpacked, UnreadableError
from lengthen.util.errors import SettingError

HEAD = 2**20  # bytes that are compared before whole files are
TEXT_HEAD = 2**16  # of unpacked text, which costs more

Named = tuple[str | None, Source]  # a source and its split
Pair = tuple[Source, Source]  # a source, and a later one that is the same


def by_name(sources: Sequence[Source]) -> dict[str, list[Source]]:
    """Return the sources of each split, `train`, `validation` and `test`, by their names.

    All of them train where no name holds any out, and where all are of one split: then that one was
    asked for. Raises SettingError where names do not say what is to be trained on.
    """
    named = list(zip(_splits(sources), sources, strict=True))
    found = {split for split, _ in named}
    if len(found) < 2 or found <= {"train", None}:
        return {"train": list(sources), "validation": [], "test": []}
    if None in found or "train" not in found:
        raise _unclear(named)
    return {split: [source for own, source in named if own == split] for split in WORDS}


def _splits(sources: Sequence[Source]) -> Iterator[str | None]:
    """Yield what each name says, or else the folders above it.

    Not those that all of them are in, nor those above an argument.
    """
    paths = [os.path.abspath(source.path) for source in sources]
    above = [
        os.path.dirname(p) for p, source in zip(paths, sources, strict=True) if not source.piped
    ]
    base = os.path.commonpath(above) if above else ""
    for path, source in zip(paths, sources, strict=True):
        below = max(base, source.above, key=len)
        names = Path(os.path.relpath(path, below)).parts[::-1]
        # What lies in `train/` trains, whatever words its own name has.
        surest = [*filter(is_split_alone, names[1:]), *names]
        yield "train" if source.piped else next(filter(None, map(split_of, surest)), None)


def _unclear(named: Sequence[Named]) -> SettingError:
    split, held = next((own, source) for own, source in named if own in ("validation", "test"))
    other = next(source for own, source in named if own not in ("train", split))
    rule = f"is a {split} split by its name, and beside it {other.name!r} is not named as training"
    hint = (
        "name the files to train on alone, or rename what is no split; --valid-files takes others"
    )
    return SettingError("source", rule, held.name, hint)


def must_differ(train: Sequence[Source], valid: Sequence[Source], *, by_name: bool = False) -> None:
    """Raise SettingError where one file, or the same bytes, packed or not, are reached twice.

    `by_name`: `valid` are those of the validation split, and no others were asked for.
    """
    sources = [*train, *valid]
    same, pairs = "the same file as", _same([sources], _file)
    if not pairs:
        files = [source for source in sources if source.kind != "dataset" and source.size]
        same, pairs = "the same bytes as", _same([files], _size, _head, _whole)
        texts = [source for source in files if source.kind in ("txt", "jsonl")]
        if not pairs and any(source.path.suffix.lower() in PACKINGS for source in texts):
            same, pairs = "the same text as", _same([texts], _kind, _text_head, _text)
    if not pairs:
        return
    validating = set(map(id, valid))
    first, again = max(pairs, key=lambda pair: id(pair[1]) in validating)  # the worst
    more = f", and there are {len(pairs) - 1} more" if len(pairs) > 1 else ""
    leaks = id(again) in validating and id(first) not in validating
    if leaks and by_name:
        rule = f"validates by the name of its split, and is {same} {first.name!r}{more}"
        hint = "--valid-files takes another text to validate with, --valid 0 none"
        raise SettingError("source", rule, again.name, hint)
    if leaks:
        rule = f"is also a source ({same} {first.name!r}{more}), and what trains cannot validate"
        raise SettingError("valid_files", rule, again.name)
    rule = f"is {same} {first.name!r}{more}, and would be read twice"
    raise SettingError("source", rule, again.name, "name one of them")


def _same(groups: list[list[Source]], *keys: Callable[[Source], object]) -> list[Pair]:
    """Divide the groups by one key after the other, so that a costly one meets few sources."""
    for key in keys:
        groups = [alike for group in groups for alike in _divided(group, key) if len(alike) > 1]
    return [(alike[0], again) for alike in groups for again in alike[1:]]


def _divided(group: list[Source], key: Callable[[Source], object]) -> list[list[Source]]:
    alike: dict[object, list[Source]] = {}
    for source in group:
        alike.setdefault(key(source), []).append(source)
    return list(alike.values())


def _file(source: Source) -> object:
    status = source.path.stat()  # of what a link points to, and alike for all hard links
    return status.st_dev, status.st_ino


def _size(source: Source) -> object:
    return source.size


def _kind(source: Source) -> object:
    return source.kind


def _text_head(source: Source) -> object:
    return _unpacked(source, lambda file: file.read(TEXT_HEAD))


def _text(source: Source) -> object:
    return _unpacked(source, lambda file: hashlib.file_digest(file, "sha256").digest())


def _unpacked(source: Source, key: Callable[["io.BufferedReader[Unpacked]"], bytes]) -> object:
    try:
        with Unpacked(source.path) as raw, io.BufferedReader(raw, TEXT_HEAD) as file:
            return key(file)
    except (OSError, UnreadableError, RefusedError):  # the reader will say so
        return source.path


def _head(source: Source) -> object:
    try:
        with source.path.open("rb") as file:
            return hashlib.sha256(file.read(HEAD)).digest()
    except OSError:  # the reader will say so
        return source.path


def _whole(source: Source) -> object:
    with source.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
