"""A corpus of JSON lines, plain and packed."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.data.prepare import prepare
from lengthen.data.readers import LeftOut, read_documents
from lengthen.data.sources import find_sources
from tests.fuzz.law import held
from tests.fuzz.spoiled import bytes_near, json_values, words

TEXTS = ["one text\nof lines", "", "  ", "\u0000\ufeff", "caf\u00e9 \U0001f600", "a " * 200]
GOOD = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)
text_lines = st.lists(
    st.text(max_size=20).map(lambda text: json.dumps({"text": text}).encode())
    | st.dictionaries(st.just("text") | words, json_values, max_size=2).map(
        lambda row: json.dumps(row).encode()
    )
    | st.sampled_from(
        [b'{"text": "\\ud800"}', b'{"text": "\xff"}', b"[]", b"null", b"\xef\xbb\xbf"]
    )
    | st.binary(max_size=12),
    max_size=6,
).map(b"\n".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


@given(data=text_lines | bytes_near(GOOD))
def test_lines_are_read_to_their_end(folder: Path, data: bytes) -> None:
    file = folder / "a.jsonl"
    file.write_bytes(data)

    def use() -> None:
        for _ in read_documents(find_sources([str(file)])[0], "text", LeftOut("skip")):
            pass

    held("corpus jsonl", use)


@given(data=bytes_near(gzip.compress(GOOD, mtime=0)))
def test_packed_lines_are_read_to_their_end(folder: Path, data: bytes) -> None:
    file = folder / "a.jsonl.gz"
    file.write_bytes(data)

    def use() -> None:
        for _ in read_documents(find_sources([str(file)])[0], "text", LeftOut("skip")):
            pass

    held("corpus jsonl", use)


@given(data=text_lines | bytes_near(GOOD), skip=st.booleans())
def test_a_store_is_made_or_nothing(folder: Path, data: bytes, skip: bool) -> None:
    file, out = folder / "b.jsonl", folder / "out" / "store"
    file.write_bytes(data)
    way = "skip" if skip else "stop"

    def use() -> None:
        prepare([str(file)], out, tokenizer="bytes", valid=0.2, on_bad=way, quiet=True)

    refused = held("corpus jsonl", use, inside=folder / "out")
    assert out.exists() is not bool(refused)
    shutil.rmtree(folder / "out", ignore_errors=True)
