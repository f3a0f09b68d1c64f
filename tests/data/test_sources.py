"""Arguments name files in a fixed order; what names nothing is one line with the nearest name."""

import json
import os
from pathlib import Path

import pytest

from lengthen.data.sources import Source, find, split_of
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
    sources, ignored = find([str(folder)])
    assert names(sources, folder) == ["a/y.TXT.gz", "a/z.jsonl.zst", "b.txt"]
    assert [source.kind for source in sources] == ["txt", "jsonl", "txt"]
    assert ignored == [folder / "c.md"]


def test_a_glob_gives_its_matches_by_name(folder: Path) -> None:
    assert names(find([f"{folder}/**/*.*z*"])[0], folder) == ["a/y.TXT.gz", "a/z.jsonl.zst"]


def test_a_name_that_looks_like_a_glob_is_a_name_first(tmp_path: Path) -> None:
    write(tmp_path / "a[1].txt", "x")
    assert names(find([str(tmp_path / "a[1].txt")])[0], tmp_path) == ["a[1].txt"]


def test_the_order_of_the_arguments_is_kept(folder: Path) -> None:
    arguments = [str(folder / "b.txt"), "-", str(folder / "a")]
    stdin = Source(Path("spool.txt"), "txt", 3, "standard input")
    sources, _ = find(arguments, stdin)
    assert [source.path.name for source in sources] == [
        "b.txt",
        "spool.txt",
        "y.TXT.gz",
        "z.jsonl.zst",
    ]


def test_a_link_to_a_folder_gives_no_document_twice(folder: Path) -> None:
    (folder / "a/again").symlink_to(folder)
    assert len(find([str(folder)])[0]) == 3


@pytest.mark.parametrize("name", ["a.txt.zst.gz", "a.parquet.gz", "txt", "a.txt~"])
def test_what_only_looks_like_a_format_is_none(folder: Path, name: str) -> None:
    write(folder / name, "x")
    assert folder / name in find([str(folder)])[1]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("b.tx", r"no such file or folder.*did you mean '.*b\.txt'"),
        ("nothing/at/all", "no such file or folder"),
        ("long" * 999, "no such file or folder"),
        ("*.parquet", "no file matches"),
        ("c.md", r"unknown format '\.md'.*one of \.txt, "),
        ("d.json", r"unknown format '\.json'.*did you mean '\.jsonl'"),
        ("pipe.txt", "must be a regular file.*pipe it to `-`"),
    ],
)
def test_what_names_nothing_readable_is_refused(folder: Path, argument: str, message: str) -> None:
    write(folder / "d.json", "{}")
    os.mkfifo(folder / "pipe.txt")
    with pytest.raises(SettingError, match=message) as caught:
        find([str(folder / argument)])
    assert "\n" not in str(caught.value)


def saved_splits(folder: Path, *names: str) -> Path:
    write(folder / "dataset_dict.json", json.dumps({"splits": names}))
    for name in names:
        for file in ("dataset_info.json", "state.json"):
            write(folder / name / file, "{}")
    return folder


def test_a_saved_dataset_with_splits_gives_each_of_them(tmp_path: Path) -> None:
    sources, ignored = find([str(saved_splits(tmp_path, "train", "validation", "test"))])
    assert names(sources, tmp_path) == ["test", "train", "validation"]
    assert {source.kind for source in sources} == {"dataset"}
    assert [path.name for path in ignored] == ["dataset_dict.json"]


def test_a_dataset_with_splits_of_unknown_names_is_not_guessed_about(tmp_path: Path) -> None:
    folder = saved_splits(tmp_path, "train", "holdout")
    with pytest.raises(SettingError, match=r"name one of its splits: .*holdout, .*train"):
        find([str(folder)])
    assert names(find([str(folder / "holdout")])[0], tmp_path) == ["holdout"]


@pytest.mark.parametrize("name", ["wiki.train.tokens", "c4.json.gz", "README.md"])
def test_a_folder_without_a_known_format_says_so_and_what_to_do(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, "{}")
    with pytest.raises(SettingError, match=rf"no known format.*{name}.*rename it by what it holds"):
        find([str(tmp_path)])


def test_what_a_dataset_cached_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "wiki-train.arrow", "x")
    write(tmp_path / "cache-0123456789abcdef.arrow", "x")
    assert names(find([str(tmp_path)])[0], tmp_path) == ["wiki-train.arrow"]


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
    assert split_of(name) == split
