"""Which of the files that were found may be trained on: no held-out split, and none of them twice.

Names of splits are read as `datasets` reads them: one of the words below, in the name of the file
or of a folder above it, with anything but a letter on either side.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lengthen.corpus.sources import WORDS, Source, split_of
from lengthen.errors import SettingError

HEAD = 2**20  # bytes that are compared before whole files are

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
    """Yield what each name says, or else the folders above it, up to one that all are in."""
    paths = [os.path.abspath(source.path) for source in sources]
    above = [
        os.path.dirname(p) for p, source in zip(paths, sources, strict=True) if not source.piped
    ]
    base = os.path.commonpath(above) if above else ""
    for path, source in zip(paths, sources, strict=True):
        names = reversed(Path(os.path.relpath(path, base)).parts)
        yield "train" if source.piped else next(filter(None, map(split_of, names)), None)


def _unclear(named: Sequence[Named]) -> SettingError:
    split, held = next((own, source) for own, source in named if own in ("validation", "test"))
    other = next(source for own, source in named if own not in ("train", split))
    rule = f"is a {split} split by its name, and beside it {other.name!r} is not named as training"
    hint = "name the files to train on; --valid-files takes others"
    return SettingError("source", rule, held.name, hint)


def must_differ(train: Sequence[Source], valid: Sequence[Source]) -> None:
    """Raise SettingError where one file, or the same bytes, are reached twice."""
    sources = [*train, *valid]
    same, pairs = "the same file as", _same([sources], _file)
    if not pairs:
        files = [source for source in sources if source.kind != "dataset" and source.size]
        same, pairs = "the same bytes as", _same([files], _size, _head, _whole)
    if not pairs:
        return
    validating = set(map(id, valid))
    first, again = max(pairs, key=lambda pair: id(pair[1]) in validating)  # the worst
    more = f", and there are {len(pairs) - 1} more" if len(pairs) > 1 else ""
    if id(again) in validating and id(first) not in validating:
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


def _head(source: Source) -> object:
    try:
        with source.path.open("rb") as file:
            return hashlib.sha256(file.read(HEAD)).digest()
    except OSError:  # the reader will say so
        return source.path


def _whole(source: Source) -> object:
    with source.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
