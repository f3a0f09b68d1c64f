"""Arguments name files in a fixed order, and names say which split a file is of."""

import json
import os
from pathlib import Path

import pytest

from lengthen.data.prepare import prepare
from lengthen.data.sources import Source, find_sources, group_by_split, split_of_name
from lengthen.util.errors import SettingError
from tests.data.files import write


def names(sources: list[Source], base: Path) -> list[str]:
    return [str(source.path.relative_to(base)) for source in sources]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a/z.jsonl.zst", "a/y.TXT.gz", "c.md", "a/.hidden.txt", ".git/x.txt"):
        write(tmp_path / name, "text")
    return tmp_path


def test_a_folder_gives_what_it_holds_by_name_and_says_what_is_no_text(folder: Path) -> None:
    sources, ignored = find_sources([str(folder)])
    assert names(sources, folder) == ["a/y.TXT.gz", "a/z.jsonl.zst", "b.txt"]
    assert [source.kind for source in sources] == ["txt", "jsonl", "txt"]
    assert ignored == [folder / "c.md"]


def test_a_glob_gives_its_matches_by_name(folder: Path) -> None:
    assert names(find_sources([f"{folder}/**/*.*z*"])[0], folder) == ["a/y.TXT.gz", "a/z.jsonl.zst"]


def test_a_name_that_looks_like_a_glob_is_a_name_first(tmp_path: Path) -> None:
    write(tmp_path / "a[1].txt", "x")
    assert names(find_sources([str(tmp_path / "a[1].txt")])[0], tmp_path) == ["a[1].txt"]


def test_the_order_of_the_arguments_is_kept(folder: Path) -> None:
    arguments = [str(folder / "b.txt"), "-", str(folder / "a")]
    stdin = Source(Path("spool.txt"), "txt", 3, "standard input")
    sources, _ = find_sources(arguments, stdin)
    assert [source.path.name for source in sources] == [
        "b.txt",
        "spool.txt",
        "y.TXT.gz",
        "z.jsonl.zst",
    ]


def test_a_link_to_a_folder_gives_no_document_twice(folder: Path) -> None:
    (folder / "a/again").symlink_to(folder)
    assert len(find_sources([str(folder)])[0]) == 3


def test_a_link_to_a_folder_elsewhere_is_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "in/b.txt", "b")
    write(tmp_path / "elsewhere/sub/a.txt", "a")
    links = {"again": "..", "self": ".", "back": "../in", "up": "../.."}
    for name, target in links.items():
        (tmp_path / "elsewhere" / name).symlink_to(tmp_path / "elsewhere" / target)
    for name in ("a", "c"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere")
    found, _ = find_sources([str(tmp_path / "in")])
    assert names(found, tmp_path / "in") == ["a/sub/a.txt", "b.txt"]


@pytest.mark.parametrize("argument", [".", "*"])
def test_a_store_beside_its_sources_is_none_of_them(tmp_path: Path, argument: str) -> None:
    source = write(tmp_path / "a.txt", "text")
    prepare([source], tmp_path / "store", tokenizer="bytes", quiet=True)
    found, ignored = find_sources([str(tmp_path / argument)])
    assert (names(found, tmp_path), ignored) == (["a.txt"], [])
    named, _ = find_sources([str(tmp_path / "store")])
    assert names(named, tmp_path / "store") == ["train.bin", "valid.bin"]


@pytest.mark.parametrize("name", ["a.txt.zst.gz", "a.parquet.gz", "txt", "a.txt~"])
def test_what_only_looks_like_a_format_is_none(folder: Path, name: str) -> None:
    write(folder / name, "x")
    assert folder / name in find_sources([str(folder)])[1]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("b.tx", r"no such file or folder.*did you mean '.*b\.txt'"),
        ("nothing/at/all", "no such file or folder"),
        ("long" * 999, "no such file or folder"),
        ("*.parquet", "no file matches"),
        ("c.md", r"is of no known format.*\.txt \(plain text\), \.jsonl"),
        ("d.json", r"is of no known format"),
        ("pipe.txt", "must be a regular file.*pipe it to `-`"),
        ("gone.txt", r"is a link to what is not there, got '.*gone\.txt'$"),
    ],
)
def test_what_names_nothing_readable_is_refused(folder: Path, argument: str, message: str) -> None:
    write(folder / "d.json", "{}")
    os.mkfifo(folder / "pipe.txt")
    (folder / "gone.txt").symlink_to(folder / "nothing")
    with pytest.raises(SettingError, match=message) as caught:
        find_sources([str(folder / argument)])
    assert "\n" not in str(caught.value)


def saved_splits(folder: Path, *names: str) -> Path:
    write(folder / "dataset_dict.json", json.dumps({"splits": names}))
    for name in names:
        for file in ("dataset_info.json", "state.json"):
            write(folder / name / file, "{}")
    return folder


def test_a_saved_dataset_with_splits_gives_each_of_them(tmp_path: Path) -> None:
    sources, ignored = find_sources([str(saved_splits(tmp_path, "train", "validation", "test"))])
    assert names(sources, tmp_path) == ["test", "train", "validation"]
    assert {source.kind for source in sources} == {"dataset"}
    assert [path.name for path in ignored] == ["dataset_dict.json"]


def test_a_dataset_with_splits_of_unknown_names_is_not_guessed_about(tmp_path: Path) -> None:
    folder = saved_splits(tmp_path, "train", "holdout")
    with pytest.raises(SettingError, match=r"name one of its splits: .*holdout, .*train"):
        find_sources([str(folder)])
    assert names(find_sources([str(folder / "holdout")])[0], tmp_path) == ["holdout"]


@pytest.mark.parametrize("name", ["wiki.train.tokens", "c4.json.gz", "README.md"])
def test_a_folder_without_a_known_format_says_so_and_what_to_do(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, "{}")
    with pytest.raises(SettingError, match=rf"no known format.*{name}.*name it by what it holds"):
        find_sources([str(tmp_path)])


def test_what_a_dataset_cached_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "wiki-train.arrow", "x")
    write(tmp_path / "cache-0123456789abcdef.arrow", "x")
    assert names(find_sources([str(tmp_path)])[0], tmp_path) == ["wiki-train.arrow"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("wiki.valid.tokens", "validation"),
        ("Wiki_DEV.txt", "validation"),
        ("val", "validation"),
        ("eval2.jsonl", "test"),
        ("train-test.jsonl", "test"),
        ("validation_matched.jsonl", "validation"),
        ("testament.txt", None),
        ("medieval.txt", None),
        ("developers.txt", None),
        ("contest.txt", None),
    ],
)
def test_a_name_says_a_split_by_a_whole_word(name: str, split: str | None) -> None:
    assert split_of_name(name) == split


def groups(*arguments: Path) -> dict[str, list[str]]:
    sources, _ = find_sources([str(path) for path in arguments])
    return {
        name: [source.path.name for source in group]
        for name, group in group_by_split(sources).items()
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
    found = groups(*arguments)
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
    assert groups(tmp_path) == {
        "train": sorted(path.name for path in paths),
        "validation": [],
        "test": [],
    }


def test_a_folder_that_all_are_in_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "test/run/a.txt", "a")
    write(tmp_path / "test/run/train.txt", "b")
    assert groups(tmp_path / "test/run/a.txt", tmp_path / "test/run/train.txt")["test"] == []


@pytest.mark.parametrize("second", ["more", "more/*.txt", "more/b.txt"])
def test_a_folder_above_what_was_named_says_nothing(tmp_path: Path, second: str) -> None:
    write(tmp_path / "dev/books/a.txt", "a")
    write(tmp_path / "more/b.txt", "b")
    found = groups(tmp_path / "dev/books", tmp_path / second)
    assert found == {"train": ["a.txt", "b.txt"], "validation": [], "test": []}


@pytest.mark.parametrize("shape", ["{}", "{}/*.txt", "{}/a.txt"])
def test_a_folder_that_was_named_is_a_split(tmp_path: Path, shape: str) -> None:
    write(tmp_path / "one/train/a.txt", "a")
    write(tmp_path / "two/test/a.txt", "b")
    names = [tmp_path / shape.format(name) for name in ("one/train", "two/test")]
    assert groups(*names) == {"train": ["a.txt"], "validation": [], "test": ["a.txt"]}


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
        groups(tmp_path)


def test_standard_input_trains_whatever_lies_beside_it(tmp_path: Path) -> None:
    stdin = Source(tmp_path / "test/stdin.txt", "txt", 1, "standard input", is_stdin=True)
    found = group_by_split([stdin, *find_sources([str(write(tmp_path / "valid.txt", "a"))])[0]])
    assert found["train"] == [stdin]
    assert [source.path.name for source in found["validation"]] == ["valid.txt"]
