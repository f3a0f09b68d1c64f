"""A tokenizer.json, and the two files of GPT-2."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.data.encode import can_be_cut
from lengthen.data.tokenizer import resolve, vocabulary_size
from lengthen.data.tokenizer_files import parse_tokenizer
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
    vocabulary_size(tokenizer)
    can_be_cut(tokenizer)


@given(data=json_near(GOOD))
def test_a_tokenizer_json(folder: Path, data: bytes) -> None:
    file = folder / "tokenizer.json"
    file.write_bytes(data)
    held("tokenizer file", lambda: use(str(file)))
    held("tokenizer file", lambda: parse_tokenizer(data, file).encode("some text").ids)


CONFIG = {
    "eos_token": {"content": "<|endoftext|>", "lstrip": False},
    "additional_special_tokens": ["<a>", "<b>"],
    "added_tokens_decoder": {"300": {"content": "<a>", "special": True}},
    "tokenizer_class": "GPT2Tokenizer",
}


@given(
    config=json_near(CONFIG),
    special=json_near({"eos_token": "<|endoftext|>", "pad_token": None}),
    added=json_near({"<a>": 301, "<|endoftext|>": 0}),
)
def test_the_files_beside_a_tokenizer_json(
    folder: Path, config: bytes, special: bytes, added: bytes
) -> None:
    beside = folder / "beside"
    beside.mkdir(exist_ok=True)
    (beside / "tokenizer.json").write_text(json.dumps(GOOD), encoding="utf-8")
    (beside / "tokenizer_config.json").write_bytes(config)
    (beside / "special_tokens_map.json").write_bytes(special)
    (beside / "added_tokens.json").write_bytes(added)
    held("tokenizer file", lambda: use(str(beside)))


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
