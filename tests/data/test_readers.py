"""Readers give every document as it is, or say in one line what is wrong and where."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.data import readers, unpack
from lengthen.data.readers import Bad, Item, Part, read
from lengthen.data.sources import find
from lengthen.util.errors import DataError, SettingError
from tests.data.files import as_lines, packed, write

ODD = ["", "\ufeffmark", "a\r\nb\r\n", "nul\0nul", " \n\t", "no line end", "é漢😀\u2028x", "x" * 9]
PACKINGS = ["", ".gz", ".zst"]


def items_of(path: Path, field: str = "text", *, whole_texts: bool = False) -> list[Item]:
    return list(read(find([str(path)])[0], field, whole_texts=whole_texts))


def documents(items: Sequence[Item]) -> list[str]:
    """Join the parts of each document; anything bad is a failure."""
    texts, text = [], ""
    for item in items:
        assert isinstance(item, Part), item
        text += item.text
        if item.ends:
            texts.append(text)
            text = ""
    assert text == ""
    return texts


def reasons(items: Sequence[Item]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Bad)]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_line_of_jsonl_is_a_document(tmp_path: Path, packing: str) -> None:
    path = write(tmp_path / f"a.jsonl{packing}", as_lines(ODD))
    assert documents(items_of(path)) == ODD


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("text", ODD)
def test_f42_a_text_file_is_one_document_kept_to_the_byte(
    tmp_path: Path, packing: str, text: str
) -> None:
    assert documents(items_of(write(tmp_path / f"a.txt{packing}", text))) == [text]


@given(text=st.text(), block=st.integers(1, 9))
def test_a_text_is_whole_however_blocks_cut_it(
    tmp_path_factory: pytest.TempPathFactory, text: str, block: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "blocks.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK", block)
        items = items_of(path)
    assert documents(items) == [text]
    assert all(isinstance(item, Part) and item.text for item in items) or text == ""


def test_jsonl_may_have_a_byte_order_mark_blank_lines_and_crlf(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n \n{"text": "b"}'
    assert documents(items_of(write(tmp_path / "a.jsonl", data))) == ["a", "b"]


def test_the_field_is_an_option_and_pairs_of_surrogates_are_a_character(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"body": "\\ud83d\\ude00", "text": 3}\n')
    assert documents(items_of(path, "body")) == ["😀"]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_f44_all_frames_of_a_file_are_read(tmp_path: Path, packing: str) -> None:
    data = packed(b"one ", packing) + packed(b"two", packing)
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(data)
    assert documents(items_of(path)) == ["one two"]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("tenth", range(1, 10))
def test_f44_a_file_that_is_cut_off_is_bad(tmp_path: Path, packing: str, tenth: int) -> None:
    text = "".join(chr(33 + (number * number) % 90) for number in range(5000))
    data = packed(text.encode(), packing)
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(data[: len(data) * tenth // 10])
    assert reasons(items_of(path))[0].startswith(f"{path}: damaged or cut off (")


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_f44_a_bomb_is_not_unpacked(
    tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "RATIO_FROM", 2**20)
    path = write(tmp_path / f"a.txt{packing}", b"\0" * 2**24)
    items = items_of(path)
    assert reasons(items) == [
        f"{path}: expands more than 300 to 1; unpack it first if that is right"
    ]
    assert len(items) < 8


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("block", [1, 2, 3, 5, 2**20])
@pytest.mark.parametrize("place", [0, 7, 12])
def test_f43_invalid_utf8_is_named_by_line_and_byte(
    tmp_path: Path, packing: str, block: int, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK", block)
    data = bytearray("één\ntwo\nxyz".encode())
    data[place] = 0xFF
    path = write(tmp_path / f"a.txt{packing}", bytes(data))
    line = 1 + bytes(data[:place]).count(b"\n")
    assert reasons(items_of(path)) == [f"{path} line {line}, byte {place}: invalid UTF-8"]


def test_f43_a_character_that_the_end_cuts_off_is_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "aé".encode()[:2])
    assert reasons(items_of(path)) == [f"{path} line 1, byte 1: invalid UTF-8"]


def test_a_bad_text_gives_no_part_at_all_if_texts_are_wanted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK", 1)
    write(tmp_path / "a.txt", b"good until \xff")
    write(tmp_path / "b.txt", b"good")
    items = items_of(tmp_path, whole_texts=True)
    assert len(reasons(items)) == 1
    assert documents([item for item in items if isinstance(item, Part)]) == ["good"]


BAD_LINES = {
    b"{": "line 2: not JSON (",
    b"[1]": "line 2: not an object",
    b'"text"': "line 2: not an object",
    b'{"txet": "a"}': "line 2: has no field 'text'; did you mean 'txet'?",
    b'{"text": null}': "line 2: field 'text' is not text",
    b'{"text": 7}': "line 2: field 'text' is not text",
    b'{"text": "\\ud800"}': "line 2: field 'text' has half a surrogate pair",
    b'{"text": "a\xff"}': "line 2, byte 11: invalid UTF-8",
    b'{"text": "a": 1}': "line 2: not JSON (",
    b'{"text": ' + b"[" * 200_000 + b"}": "line 2: JSON is nested too deep",
    b'{"text": 1' + b"0" * 9999 + b"}": "line 2: not JSON (",
    b"\0\0\0": "line 2: not JSON (",
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_f43_a_bad_line_is_named_and_the_others_are_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = write(tmp_path / "a.jsonl", as_lines(["a"]) + line + b"\n" + as_lines(["b"]))
    items = items_of(path)
    assert [item.text for item in items if isinstance(item, Part)] == ["a", "b"]
    assert len(reasons(items)) == 1
    assert reasons(items)[0].startswith(f"{path} {reason}")
    assert "\n" not in reasons(items)[0]


def test_a_line_over_the_limit_is_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LINE_LIMIT", 100)
    path = write(tmp_path / "a.jsonl", as_lines(["a" * 200]))
    assert reasons(items_of(path)) == [f"{path} line 1: is over 100 bytes"]


def test_a_file_that_vanished_is_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    sources, _ = find([str(path)])
    path.unlink()
    items = list(read(sources, "text", whole_texts=False))
    assert reasons(items) == [f"{path}: cannot be read (no such file or directory)"]


def test_how_far_we_are_grows_to_the_size_of_the_sources(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.zst", as_lines(ODD))
    write(tmp_path / "b.txt", "text")
    sources, _ = find([str(tmp_path)])
    places = [item.at for item in read(sources, "text", whole_texts=False)]
    assert places == sorted(places)
    assert places[-1] == sum(source.size for source in sources)


class TestTables:
    """Parquet and saved datasets, where the extra `data` is installed."""

    def parquet(self, path: Path, texts: Sequence[object], field: str = "text") -> Path:
        arrow = pytest.importorskip("pyarrow")
        table = arrow.table({field: texts, "number": list(range(len(texts)))})
        pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=3)
        return path

    def dataset(self, path: Path, texts: Sequence[object]) -> Path:
        data = pytest.importorskip("datasets").Dataset.from_dict({"text": texts})
        data.save_to_disk(str(path))
        return path

    def test_a_row_of_parquet_is_a_document(self, tmp_path: Path) -> None:
        assert documents(items_of(self.parquet(tmp_path / "a.parquet", ODD))) == ODD

    def test_a_row_of_a_saved_dataset_is_a_document(self, tmp_path: Path) -> None:
        assert documents(items_of(self.dataset(tmp_path / "a", ODD))) == ODD

    def test_a_row_without_text_is_bad(self, tmp_path: Path) -> None:
        path = self.parquet(tmp_path / "a.parquet", ["a", None, "b"])
        items = items_of(path)
        assert [item.text for item in items if isinstance(item, Part)] == ["a", "b"]
        assert reasons(items) == [f"{path} row 2: field 'text' is not text"]

    def test_a_column_that_is_not_there_gets_the_nearest(self, tmp_path: Path) -> None:
        path = self.parquet(tmp_path / "a.parquet", ["a"], "texts")
        with pytest.raises(DataError, match=r"has no column 'text'; did you mean 'texts'\? \(--fi"):
            items_of(path)

    @pytest.mark.parametrize("size", [0, 10, 600, -10])
    def test_f44_a_damaged_file_is_bad(self, tmp_path: Path, size: int) -> None:
        path = self.parquet(tmp_path / "a.parquet", ODD)
        path.write_bytes(path.read_bytes()[:size])
        assert "damaged" in reasons(items_of(path))[0]

    def test_a_damaged_dataset_is_bad(self, tmp_path: Path) -> None:
        path = self.dataset(tmp_path / "a", ODD)
        next(path.glob("*.arrow")).write_bytes(b"no arrow")
        assert "damaged" in reasons(items_of(path))[0]

    @pytest.mark.parametrize("name", ["pyarrow.parquet", "datasets"])
    def test_f53_a_missing_package_is_one_line_with_the_command(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(name: str) -> None:
            raise ImportError(name)

        kind = name.partition(".")[2]
        path = tmp_path / f"a{'.parquet' if kind else ''}"
        self.parquet(path, ODD) if kind else self.dataset(path, ODD)
        monkeypatch.setattr("importlib.import_module", missing)
        with pytest.raises(SettingError, match=r"pip install 'lengthen\[data\]'"):
            items_of(path)


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_jsonl_gives_back_any_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=bool(len(text) % 2)) for text in texts]
    write(path, "\n".join(lines))
    assert documents(items_of(path)) == texts
