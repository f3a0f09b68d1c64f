"""Tables give their text whatever its column's type; what is no text is refused by its cause."""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lengthen.data.readers import Bad, Part, read
from lengthen.data.sources import find
from lengthen.util.errors import DataError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
TEXTS = ["one", "two é", "one"]


def texts_of(path: Path, field: str = "text") -> list[str]:
    items = list(read(find([str(path)])[0], field, whole_texts=True))
    assert all(isinstance(item, Part) for item in items), items
    return [item.text for item in items if isinstance(item, Part)]


def written(path: Path, kind: Any, values: list[Any], name: str = "text") -> Path:
    table = arrow.table({name: arrow.array(values, kind), "number": range(len(values))})
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
        return path
    kinds = {"stream": arrow.ipc.new_stream, "file": arrow.ipc.new_file}
    with arrow.OSFile(str(path), "wb") as file, kinds[path.stem](file, table.schema) as writer:
        writer.write_table(table)
    return path


KINDS = {
    "string": arrow.string(),
    "large": arrow.large_string(),
    "view": arrow.string_view(),
    "dictionary": arrow.dictionary(arrow.int32(), arrow.string()),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow"])
def test_every_kind_of_text_is_read(tmp_path: Path, kind: Any, name: str) -> None:
    assert texts_of(written(tmp_path / name, kind, TEXTS)) == TEXTS
    assert texts_of(written(tmp_path / name, kind, [])) == []


NO_TEXT = {
    "binary": (arrow.binary(), [b"a"]),
    "list": (arrow.list_(arrow.string()), [["a"]]),
    "struct": (arrow.struct([("text", arrow.string())]), [{"text": "a"}]),
    "number": (arrow.int64(), [1]),
    "null": (arrow.null(), [None]),
}


@pytest.mark.parametrize(("kind", "values"), NO_TEXT.values(), ids=NO_TEXT)
@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow"])
def test_a_column_that_holds_no_text_is_named_with_its_type(
    tmp_path: Path, kind: Any, values: list[Any], name: str
) -> None:
    path = written(tmp_path / name, kind, values)
    with pytest.raises(DataError, match=r"column 'text' holds .*, not text; no column holds text"):
        texts_of(path)


def test_the_columns_of_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": [[1]], "body": ["a"], "title": ["b"]}), path)
    with pytest.raises(DataError, match=r"columns of text are 'body', 'title' \(--field\)"):
        texts_of(path)


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow"])
def test_a_row_that_is_no_unicode_is_bad_by_itself(tmp_path: Path, name: str) -> None:
    buffers = [None, arrow.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0]))]
    spoiled = arrow.Array.from_buffers(
        arrow.string(), 3, [*buffers, arrow.py_buffer(b"ab\xff\xfecd")]
    )
    path = written(tmp_path / name, arrow.string(), spoiled)
    first, bad, last = read(find([str(path)])[0], "text", whole_texts=True)
    assert isinstance(first, Part)
    assert isinstance(last, Part)
    assert (first.text, last.text) == ("ab", "cd")
    assert isinstance(bad, Bad)
    assert bad.reason == f"{path} row 2: field 'text' is invalid UTF-8"


def test_a_name_that_two_columns_have_is_refused(tmp_path: Path) -> None:
    table = arrow.Table.from_arrays([arrow.array(TEXTS)] * 2, names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: has 2 columns 'text'; rename one"):
        texts_of(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_text_that_is_named_as_a_table_is_no_damage(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text,number\none,1\n" * 9)
    with pytest.raises(DataError, match=r"is plain text, not (parquet|Arrow); name it by what it"):
        texts_of(tmp_path / name)


@pytest.mark.parametrize("name", ["file.arrow", "stream.arrow"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5])
def test_f44_a_damaged_arrow_file_is_bad(tmp_path: Path, name: str, share: float) -> None:
    path = written(tmp_path / name, arrow.string(), TEXTS)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    (item,) = read(find([str(path)])[0], "text", whole_texts=True)
    assert isinstance(item, Bad)
    assert "damaged" in item.reason


@pytest.mark.parametrize("plain", [False, True])
def test_an_encrypted_file_is_said_to_be_encrypted(tmp_path: Path, plain: bool) -> None:
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    configuration = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["text"]}, plaintext_footer=plain
    )
    keys = type(
        "Keys", (encryption.KmsClient,), {"wrap_key": lambda *got: base64.b64encode(got[1])}
    )
    properties = encryption.CryptoFactory(lambda _: keys()).file_encryption_properties(
        encryption.KmsConnectionConfig(), configuration
    )
    path, table = tmp_path / "a.parquet", arrow.table({"text": TEXTS})
    with parquet.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"a\.parquet: is encrypted .*decrypt it first"):
        texts_of(path)


class TestSaved:
    """Folders that `save_to_disk` wrote."""

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        data = pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS})
        data.save_to_disk(str(tmp_path / "saved"))
        return tmp_path / "saved"

    def test_its_arrow_files_are_read_alone_too(self, saved: Path) -> None:
        assert texts_of(next(saved.glob("*.arrow"))) == TEXTS
        (saved / "state.json").unlink()
        assert texts_of(saved) == TEXTS

    @pytest.mark.parametrize("form", ["arrow", "pandas", "numpy"])
    @pytest.mark.parametrize("columns", [None, ["number"]])
    def test_the_form_that_it_gives_its_rows_in_is_no_matter(
        self, tmp_path: Path, form: str, columns: list[str] | None
    ) -> None:
        library = pytest.importorskip("datasets")
        data = library.Dataset.from_dict({"text": TEXTS, "number": [1, 2, 3]})
        data.with_format(form, columns=columns).select([2, 1, 0]).save_to_disk(str(tmp_path / "d"))
        assert texts_of(tmp_path / "d") == TEXTS[::-1]

    def test_an_empty_one_has_no_text(self, tmp_path: Path) -> None:
        data = pytest.importorskip("datasets").Dataset.from_dict({"text": []})
        data.save_to_disk(str(tmp_path / "saved"))
        assert texts_of(tmp_path / "saved") == []

    def test_one_of_a_later_version_is_no_damage(self, saved: Path) -> None:
        path = saved / "dataset_info.json"
        info = json.loads(path.read_text())
        info["features"]["text"] = {"_type": "Later", "feature": {}}
        path.write_text(json.dumps(info))
        with pytest.raises(DataError, match=r"datasets \d.* cannot open it \(Feature type 'Later'"):
            texts_of(saved)

    @pytest.mark.parametrize(
        ("name", "data", "reason"),
        [
            ("state.json", "{", "damaged"),
            ("data-00000-of-00001.arrow", None, "cannot be read.*no such.*'data-00000-of-00001"),
        ],
    )
    def test_f44_a_damaged_one_is_bad(
        self, saved: Path, name: str, data: str | None, reason: str
    ) -> None:
        (saved / name).unlink()
        if data:
            (saved / name).write_text(data)
        (item,) = read(find([str(saved)])[0], "text", whole_texts=True)
        assert isinstance(item, Bad)
        assert re.search(reason, item.reason)

    def test_splits_are_read_each(self, saved: Path, tmp_path: Path) -> None:
        (tmp_path / "all").mkdir()
        (tmp_path / "all/dataset_dict.json").write_text('{"splits": ["train"]}')
        shutil.copytree(saved, tmp_path / "all/train")
        assert texts_of(tmp_path / "all") == TEXTS
