"""A tokenizer.json, and the two files of GPT-2."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.corpus.encode import can_be_cut
from lengthen.corpus.store import load_tokenizer
from lengthen.corpus.tokenizer import resolve, vocabulary
from tests.fuzz.law import held
from tests.fuzz.spoiled import bytes_near, json_near, words

GOOD = json.loads(resolve("train:300", ["some text to learn from"] * 9).tokenizer.to_str())
MERGES = b"#version: 0.2\nt h\nth e\n\xc4\xa0 a\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


def use(spec: str) -> None:
    """Do what `prepare` does with a tokenizer."""
    tokenizer = resolve(spec).tokenizer
    vocabulary(tokenizer)
    can_be_cut(tokenizer)


@given(data=json_near(GOOD))
def test_a_tokenizer_json(folder: Path, data: bytes) -> None:
    file = folder / "tokenizer.json"
    file.write_bytes(data)
    held("tokenizer file", lambda: use(str(file)))
    held("tokenizer file", lambda: load_tokenizer(file).encode("some text").ids)


tokens = st.dictionaries(words | st.sampled_from(["t", "h", "th"]), st.integers(-1, 5), max_size=6)


@given(
    merges=bytes_near(MERGES),
    names=st.none() | tokens.map(lambda found: json.dumps(found).encode()) | bytes_near(b'{"t":0}'),
)
def test_the_files_of_gpt2(folder: Path, merges: bytes, names: bytes | None) -> None:
    two = folder / "two"
    two.mkdir(exist_ok=True)
    (two / "merges.txt").write_bytes(merges)
    (two / "vocab.json").unlink(missing_ok=True)
    if names is not None:
        (two / "vocab.json").write_bytes(names)
    held("tokenizer file", lambda: use(str(two)))
