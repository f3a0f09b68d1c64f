"""Held-out text is never trained on, and no text is read twice: by names, files and bytes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lengthen.data.sources import Source, find
from lengthen.data.splits import by_name, must_differ
from lengthen.util.errors import SettingError
from tests.data.files import as_lines, write


def split(*arguments: Path) -> dict[str, list[str]]:
    sources, _ = find([str(path) for path in arguments])
    return {
        name: [source.path.name for source in found] for name, found in by_name(sources).items()
    }


LAYOUTS = {
    "hub": [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/validation-00000-of-00001.parquet",
        "data/test-00000-of-00001.parquet",
    ],
    "names": ["train.jsonl", "x.train.txt", "valid.jsonl", "test.jsonl"],
    "folders": ["train/a.txt", "train/b.txt", "dev/c.txt", "eval/d.txt"],
    "words": ["wiki-training-1.txt", "wiki-training-2.txt", "wiki_val.txt.gz", "wiki testing.txt"],
    "sets": ["trainset.txt", "trainset2.txt", "valset.txt", "testset.txt"],
    "named folders": ["train/a.txt", "train/test-drive.txt", "dev/train-wreck.txt", "test/c.txt"],
    "below": ["en/train/a.txt", "fr/train/a2.txt", "en/val/b.txt", "fr/test/c.txt"],
}


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("way", ["folder", "glob", "files"])
def test_names_of_splits_are_used_as_such_however_they_are_reached(
    tmp_path: Path, files: list[str], way: str
) -> None:
    paths = [write(tmp_path / name, name) for name in files]
    arguments = {"folder": [tmp_path], "glob": [tmp_path / "**/*.*"], "files": paths}[way]
    found = split(*arguments)
    assert sorted(found["train"]) == sorted(path.name for path in paths[:2])
    assert found["validation"] == [paths[2].name]
    assert found["test"] == [paths[3].name]


@pytest.mark.parametrize(
    "files",
    [
        ["a.txt", "b.txt"],
        ["train.txt", "a.txt"],
        ["test/a.txt", "test/b.txt"],
        ["dev.txt"],
        ["emma.txt", "the-test-of-time.txt", "Evaluation of Risk.txt", "the dev.txt"],
        ["contest.txt", "devil.txt", "values.txt", "sunset.txt"],
    ],
)
def test_where_names_hold_nothing_out_all_is_trained_on(tmp_path: Path, files: list[str]) -> None:
    paths = [write(tmp_path / name, name) for name in files]
    assert split(tmp_path) == {
        "train": sorted(path.name for path in paths),
        "validation": [],
        "test": [],
    }


def test_a_folder_that_all_are_in_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "test/run/a.txt", "a")
    write(tmp_path / "test/run/train.txt", "b")
    assert split(tmp_path / "test/run/a.txt", tmp_path / "test/run/train.txt")["test"] == []


@pytest.mark.parametrize("second", ["more", "more/*.txt", "more/b.txt"])
def test_a_folder_above_what_was_named_says_nothing(tmp_path: Path, second: str) -> None:
    write(tmp_path / "dev/books/a.txt", "a")
    write(tmp_path / "more/b.txt", "b")
    found = split(tmp_path / "dev/books", tmp_path / second)
    assert found == {"train": ["a.txt", "b.txt"], "validation": [], "test": []}


@pytest.mark.parametrize("shape", ["{}", "{}/*.txt", "{}/a.txt"])
def test_a_folder_that_was_named_is_a_split(tmp_path: Path, shape: str) -> None:
    write(tmp_path / "one/train/a.txt", "a")
    write(tmp_path / "two/test/a.txt", "b")
    names = [tmp_path / shape.format(name) for name in ("one/train", "two/test")]
    assert split(*names) == {"train": ["a.txt"], "validation": [], "test": ["a.txt"]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.txt", "test.txt"], r"is a test split by its name, and beside it '.*a\.txt' is not"),
        (["train.txt", "dev.txt", "LICENSE.txt"], r"validation split by its name.*LICENSE\.txt"),
        (
            ["valid.txt", "test.txt"],
            "is a test split by its name.*'.*valid.txt' is not named as tr",
        ),
    ],
)
def test_what_names_leave_open_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        write(tmp_path / name, name)
    with pytest.raises(SettingError, match=message + r".*on alone, or rename what is no split"):
        split(tmp_path)


def test_standard_input_trains_whatever_lies_beside_it(tmp_path: Path) -> None:
    piped = Source(tmp_path / "test/stdin.txt", "txt", 1, "standard input", piped=True)
    found = by_name([piped, *find([str(write(tmp_path / "valid.txt", "a"))])[0]])
    assert found["train"] == [piped]
    assert [source.path.name for source in found["validation"]] == ["valid.txt"]


AGAIN: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda old, new: new.symlink_to(old),
    "hard link": lambda old, new: os.link(old, new),
    "copy": lambda old, new: shutil.copy(old, new),
}


@pytest.mark.parametrize("make", AGAIN.values(), ids=AGAIN)
def test_one_text_under_two_names_is_refused_and_both_are_named(
    tmp_path: Path, make: Callable[[Path, Path], object]
) -> None:
    old, new = write(tmp_path / "a.txt", "text"), tmp_path / "sub/b.txt"
    write(tmp_path / "sub/other.txt", "texx")
    make(old, new)
    (both, _), (train, _), (valid, _) = find([str(tmp_path)]), find([str(old)]), find([str(new)])
    with pytest.raises(SettingError, match=r"is the same .* as '.*a\.txt'.*twice, got .*b\.txt'"):
        must_differ(both, [])
    with pytest.raises(SettingError, match=r"valid_files: is also a source \(the same .*a\.txt"):
        must_differ(train, valid)
    must_differ([], [])
    must_differ(train, [])


@pytest.mark.parametrize("names", [("a.txt", "b.txt.gz"), ("a.jsonl.zst", "b.jsonl.gz")])
def test_one_text_in_two_packings_is_refused_and_both_are_named(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    text = as_lines(["a text"] * 20_000)  # larger than what is compared at first
    old, new = (write(tmp_path / name, text) for name in names)
    write(tmp_path / names[1].replace("b.", "c."), text[:-1] + b" ")
    with pytest.raises(SettingError, match=rf"is the same text as '.*{old.name}'.*{new.name}'"):
        must_differ(find([str(tmp_path)])[0], [])


@pytest.mark.parametrize("name", ["b.txt.gz", "b.jsonl"])
def test_what_cannot_be_unpacked_or_is_read_otherwise_is_another_text(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path / "a.txt", '{"text": "a"}')
    write(tmp_path / "c.txt.gz", "other")
    (tmp_path / name).write_bytes(b'{"text": "a"} '[: 14 if name == "b.txt.gz" else 13])
    if name == "b.jsonl":
        (tmp_path / "a.txt").write_text('{"text": "a"}\n')
    must_differ(find([str(tmp_path)])[0], [])


@pytest.mark.parametrize("again", ["a.txt", ".", "*.txt", "../{0}/a.txt"])
def test_one_file_by_two_arguments_is_refused(tmp_path: Path, again: str) -> None:
    write(tmp_path / "a.txt", "text")
    sources, _ = find([str(tmp_path / "a.txt"), f"{tmp_path}/{again.format(tmp_path.name)}"])
    with pytest.raises(SettingError, match="the same file as"):
        must_differ(sources, [])


def test_the_pair_that_validates_is_named_first_and_the_others_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "in/a", "in/b", "valid/c"):
        write(tmp_path / f"{name}.txt", name[-1])
    train, valid = find([str(tmp_path / "in"), f"{tmp_path}/*.txt"])[0], find([f"{tmp_path}/valid"])
    with pytest.raises(SettingError, match=r"also a source .*c\.txt', and there are 2 more"):
        must_differ(train, valid[0])


def test_a_validation_split_that_also_trains_is_refused_as_what_it_was_taken_for(
    tmp_path: Path,
) -> None:
    train = find([str(write(tmp_path / "train.txt", "text"))])[0]
    valid = find([str(write(tmp_path / "valid.txt", "text"))])[0]
    message = r"source: validates by the name of its split, and is the same bytes .*--valid 0 none"
    with pytest.raises(SettingError, match=message):
        must_differ(train, valid, by_name=True)


def test_files_of_one_size_are_compared_to_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthen.data.splits.HEAD", 4)
    write(tmp_path / "a.txt", "texts that differ 1")
    write(tmp_path / "b.txt", "texts that differ 2")
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "empty2.txt", "")
    must_differ(find([str(tmp_path)])[0], [])
    write(tmp_path / "c.txt", "texts that differ 2")
    with pytest.raises(SettingError, match=r"the same bytes as '.*b\.txt'"):
        must_differ(find([str(tmp_path)])[0], [])
