"""Readers give every document as it is, or one line that says what is wrong and where."""

import base64
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.data import readers
from lengthen.data.readers import LeftOut, read_documents
from lengthen.data.sources import find_sources
from lengthen.util.errors import DataError, SettingError
from tests.data.files import as_lines, read, read_whole, write

ODD = ["\ufeffmark", "a\r\nb\r\n", "nul\0nul", " \n\t", "no line end", "é漢😀\u2028x", "x" * 9]
PACKINGS = ["", ".gz", ".zst"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_line_of_jsonl_is_a_document(tmp_path: Path, packing: str) -> None:
    assert read_whole(write(tmp_path / f"a.jsonl{packing}", as_lines(ODD))) == ODD


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("text", ODD)
def test_f42_a_text_file_is_one_document_kept_to_the_byte(
    tmp_path: Path, packing: str, text: str
) -> None:
    assert read_whole(write(tmp_path / f"a.txt{packing}", text)) == [text]


@given(text=st.text(min_size=1), block=st.integers(1, 9))
def test_a_text_is_whole_however_blocks_cut_it(
    tmp_path_factory: pytest.TempPathFactory, text: str, block: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "blocks.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK", block)
        assert read_whole(path) == [text]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)))
def test_jsonl_gives_back_any_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=bool(len(text) % 2)) for text in texts]
    assert read_whole(write(path, "\n".join(lines))) == texts


def test_jsonl_may_have_a_byte_order_mark_blank_lines_and_crlf(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n \n{"text": "b"}'
    assert read_whole(write(tmp_path / "a.jsonl", data)) == ["a", "b"]


def test_the_field_is_an_option_and_pairs_of_surrogates_are_a_character(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"body": "\\ud83d\\ude00", "text": 3}\n')
    assert read_whole(path, "body") == ["😀"]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("block", [1, 3, 2**20])
@pytest.mark.parametrize("place", [0, 7, 12])
def test_f43_invalid_utf8_is_named_by_line_and_byte(
    tmp_path: Path, packing: str, block: int, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK", block)
    data = bytearray("één\ntwo\nxyz".encode())
    data[place] = 0xFF
    path = write(tmp_path / f"a.txt{packing}", bytes(data))
    line = 1 + bytes(data[:place]).count(b"\n")
    texts, left_out = read(path)
    assert texts == []  # nothing of a damaged text is used, however far it was whole
    assert left_out.problems == [f"{path} line {line}, byte {place}: invalid UTF-8"]


def test_f43_a_character_that_the_end_cuts_off_is_invalid(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "aé".encode()[:2])
    assert read(path)[1].problems == [f"{path} line 1, byte 1: invalid UTF-8"]


BAD_LINES = {
    b"{": "line 2: not JSON (",
    b"[1]": "line 2: not an object",
    b'{"txet": "a"}': "line 2: has no field 'text'; did you mean 'txet'?",
    b'{"text": null}': "line 2: field 'text' is not text",
    b'{"text": "\\ud800"}': "line 2: field 'text' has half a surrogate pair",
    b'{"text": "a\xff"}': "line 2, byte 11: invalid UTF-8",
    b'{"text": ' + b"[" * 200_000 + b"}": "line 2: JSON is nested too deep",
    b'{"text": 1' + b"0" * 9999 + b"}": "line 2: not JSON (",
    b"\0\0\0": "line 2: not JSON (",
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_f43_a_bad_line_is_named_and_the_others_are_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = write(tmp_path / "a.jsonl", as_lines(["a"]) + line + b"\n" + as_lines(["b"]))
    texts, left_out = read(path)
    assert texts == ["a", "b"]
    (problem,) = left_out.problems
    assert problem.startswith(f"{path} {reason}")
    assert "\n" not in problem


@pytest.mark.parametrize("row", [b'{"body": "a"}', b'{"text": ["a"]}', b'{"text": null}'])
def test_lines_that_all_lack_the_text_are_no_bad_lines(tmp_path: Path, row: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl: no line gives text: (has no )?field 'text'"):
        read(write(tmp_path / "a.jsonl", (row + b"\n") * 3))


def test_a_line_over_the_limit_is_not_taken_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LINE_LIMIT", 100)
    path = write(tmp_path / "a.jsonl", as_lines(["a" * 200]))
    assert read(path)[1].problems == [f"{path} line 1: is over 100 bytes"]


def test_a_file_that_vanished_is_a_problem(tmp_path: Path) -> None:
    path, left_out = write(tmp_path / "a.txt", "x"), LeftOut("skip")
    sources, _ = find_sources([str(path)])
    path.unlink()
    assert list(read_documents(sources, "text", left_out)) == []
    assert left_out.problems == [f"{path}: cannot be read (no such file or directory)"]


def test_a_problem_stops_the_reading_unless_it_is_to_be_skipped(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"\xff")
    write(tmp_path / "b.txt", "fine")
    assert read(tmp_path)[0] == ["fine"]
    with pytest.raises(DataError, match=r"a\.txt line 1, byte 0: .*--on-bad skip"):
        list(read_documents(find_sources([str(tmp_path)])[0], "text", LeftOut("stop")))


def test_the_bytes_read_grow_to_the_size_of_the_sources(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.zst", as_lines(ODD))
    write(tmp_path / "b.txt", "text")
    sources, _ = find_sources([str(tmp_path)])
    places = [part.bytes_read for part in read_documents(sources, "text", LeftOut("stop"))]
    assert places == sorted(places)
    assert places[-1] == sum(source.size for source in sources)


TEXTS = ["one", "two é", "one"]
TABLES = ["a.parquet", "file.arrow", "stream.arrow"]


def table(path: Path, values: Sequence[object], kind: str = "string") -> Path:
    """Write a column `text` of an Arrow type, and another one."""
    arrow = pytest.importorskip("pyarrow")
    types: dict[str, Any] = {
        "string": arrow.string(),
        "large": arrow.large_string(),
        "view": arrow.string_view(),
        "dictionary": arrow.dictionary(arrow.int32(), arrow.string()),
        "binary": arrow.binary(),
        "list": arrow.list_(arrow.string()),
        "number": arrow.int64(),
    }
    columns = {"text": arrow.array(values, types[kind]), "number": range(len(values))}
    rows = arrow.table(columns)
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(rows, path, row_group_size=3)
        return path
    make = {"stream": arrow.ipc.new_stream, "file": arrow.ipc.new_file}[path.stem]
    with arrow.OSFile(str(path), "wb") as file, make(file, rows.schema) as writer:
        writer.write_table(rows)
    return path


def saved(path: Path, texts: Sequence[object]) -> Path:
    data = pytest.importorskip("datasets").Dataset.from_dict({"text": texts})
    data.save_to_disk(str(path))
    return path


class TestTables:
    """Parquet and Arrow files, where the extra `data` is installed."""

    @pytest.mark.parametrize("kind", ["string", "large", "view", "dictionary"])
    @pytest.mark.parametrize("name", TABLES)
    def test_every_type_of_text_is_read(self, tmp_path: Path, kind: str, name: str) -> None:
        assert read_whole(table(tmp_path / name, TEXTS, kind)) == TEXTS
        assert read_whole(table(tmp_path / name, [], kind)) == []

    @pytest.mark.parametrize(("kind", "value"), [("binary", b"a"), ("list", ["a"]), ("number", 1)])
    @pytest.mark.parametrize("name", TABLES)
    def test_a_column_without_text_is_refused_with_its_type(
        self, tmp_path: Path, kind: str, value: object, name: str
    ) -> None:
        path = table(tmp_path / name, [value], kind)
        with pytest.raises(DataError, match=r"one column 'text' of text, has \w+.*of ids: none"):
            read(path)

    @pytest.mark.parametrize("name", TABLES)
    def test_a_table_without_rows_has_no_text_whatever_its_column_s_type(
        self, tmp_path: Path, name: str
    ) -> None:
        assert read_whole(table(tmp_path / name, [], "number")) == []

    def test_a_name_with_a_dot_is_no_field_of_another_column(self, tmp_path: Path) -> None:
        arrow = pytest.importorskip("pyarrow")
        rows = arrow.table({"a": [{"b": "inner"}], "a.b": ["own"]})
        pytest.importorskip("pyarrow.parquet").write_table(rows, tmp_path / "a.parquet")
        assert read_whole(tmp_path / "a.parquet", "a.b") == ["own"]

    def test_a_missing_and_a_repeated_column_are_refused_with_those_of_text(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match=r"one column 'body' .*, has none; .*: 'text' \(--fie"):
            read(table(tmp_path / "a.parquet", TEXTS), "body")
        arrow = pytest.importorskip("pyarrow")
        twice = arrow.Table.from_arrays([arrow.array(TEXTS)] * 2, names=["text", "text"])
        pytest.importorskip("pyarrow.parquet").write_table(twice, tmp_path / "a.parquet")
        with pytest.raises(DataError, match="one column 'text' of text, has string, string"):
            read(tmp_path / "a.parquet")

    @pytest.mark.parametrize("name", TABLES)
    def test_a_row_without_text_is_bad_by_itself(self, tmp_path: Path, name: str) -> None:
        path = table(tmp_path / name, ["a", None, "b"])
        texts, left_out = read(path)
        assert texts == ["a", "b"]
        assert left_out.problems == [f"{path} row 2: field 'text' is not text"]

    @pytest.mark.parametrize("name", TABLES)
    def test_a_table_ends_where_its_text_is_no_unicode(self, tmp_path: Path, name: str) -> None:
        arrow = pytest.importorskip("pyarrow")
        offsets = arrow.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0]))
        buffers = [None, offsets, arrow.py_buffer(b"ab\xff\xfecd")]
        path = table(tmp_path / name, arrow.Array.from_buffers(arrow.string(), 3, buffers))
        assert "damaged ('utf-8' codec" in read(path)[1].problems[0]

    @pytest.mark.parametrize("name", TABLES)
    @pytest.mark.parametrize("share", [0, 0.2, 0.6])
    def test_f44_a_damaged_table_is_bad(self, tmp_path: Path, name: str, share: float) -> None:
        path = table(tmp_path / name, ODD)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        assert "damaged" in read(path)[1].problems[0]

    @pytest.mark.parametrize("plain", [False, True])
    def test_an_encrypted_file_is_no_damage(self, tmp_path: Path, plain: bool) -> None:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
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
        path, rows = tmp_path / "a.parquet", arrow.table({"text": TEXTS})
        with parquet.ParquetWriter(path, rows.schema, encryption_properties=properties) as writer:
            writer.write_table(rows)
        with pytest.raises(DataError, match=r"a\.parquet: pyarrow \d.* cannot open it .*crypt"):
            read(path)


class TestSavedDatasets:
    """Folders that `save_to_disk` wrote."""

    def test_its_rows_are_documents_and_its_arrow_files_are_read_alone_too(
        self, tmp_path: Path
    ) -> None:
        path = saved(tmp_path / "saved", TEXTS)
        assert read_whole(path) == read_whole(next(path.glob("*.arrow"))) == TEXTS
        (path / "state.json").unlink()
        assert read_whole(path) == TEXTS

    @pytest.mark.parametrize("form", ["arrow", "pandas", "numpy"])
    @pytest.mark.parametrize("columns", [None, ["number"]])
    def test_a_selection_of_rows_in_any_form_is_read(
        self, tmp_path: Path, form: str, columns: list[str] | None
    ) -> None:
        library = pytest.importorskip("datasets")
        data = library.Dataset.from_dict({"text": TEXTS, "number": [1, 2, 3]})
        data.with_format(form, columns=columns).select([2, 1, 0]).save_to_disk(str(tmp_path / "d"))
        assert read_whole(tmp_path / "d") == TEXTS[::-1]

    def test_an_empty_one_has_no_text(self, tmp_path: Path) -> None:
        assert read_whole(saved(tmp_path / "saved", [])) == []

    def test_one_of_a_later_version_is_no_damage(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "saved", TEXTS) / "dataset_info.json"
        info = json.loads(path.read_text())
        info["features"]["text"] = {"_type": "Later", "feature": {}}
        path.write_text(json.dumps(info))
        with pytest.raises(DataError, match=r"datasets \d.* cannot open it \(Feature type 'Later'"):
            read(path.parent)

    def test_f44_a_damaged_one_is_bad(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "saved", TEXTS)
        next(path.glob("*.arrow")).write_bytes(b"no arrow")
        assert "damaged" in read(path)[1].problems[0]
        next(path.glob("*.arrow")).unlink()
        assert "damaged" in read(path)[1].problems[0]

    def test_splits_are_read_each(self, tmp_path: Path) -> None:
        write(tmp_path / "all/dataset_dict.json", '{"splits": ["train"]}')
        shutil.copytree(saved(tmp_path / "saved", TEXTS), tmp_path / "all/train")
        assert read_whole(tmp_path / "all") == TEXTS


@pytest.mark.parametrize("name", ["a.parquet", "saved"])
def test_f53_a_missing_package_is_one_line_with_the_command(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    path = (table if name == "a.parquet" else saved)(tmp_path / name, TEXTS)
    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(SettingError, match="pip install pyarrow datasets"):
        read(path)
