"""Cutting changes no token, on any number of threads; what may not be cut is encoded whole."""

import json
import sys
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from lengthen.data import encode as module
from lengthen.data.encode import SAFE_PLACE, can_be_cut, cut_documents, encode
from lengthen.data.readers import DocumentPart
from lengthen.data.tokenizer import resolve
from lengthen.data.tokenizer_files import SEPARATOR
from lengthen.util.errors import DataError
from tests.data.files import GPT2, needs_shared

SAMPLE = ["It's the 2nd time, we'll say;\n\n  they'd\tnever 'tell' 3,14 -- don't! "] * 3

# Texts out of what the expression distinguishes: spaces, line ends, contractions, letters, digits.
SCRAPS = [
    *" \n\t\r'a1.,!s",
    "'ll",
    "'s",
    "  ",
    " \n",
    "\r\n",
    "é",
    "漢",
    "。",
    "\u00a0",
    "\u2028",
    "\u180e",
    "\x1c",
    "\x85",
    "\ufeff",
    "²",
    "Ⅷ",
    "\u0301",
    "😀",
    "\0",
    SEPARATOR,
]
texts = st.lists(st.sampled_from(SCRAPS) | st.characters(exclude_categories=["Cs"])).map("".join)


@cache
def tokenizer_of(spec: str) -> Tokenizer:
    return resolve(spec, SAMPLE).tokenizer


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def as_parts(text: str, size: int) -> list[DocumentPart]:
    """Hand a document over as a reader does: in parts of any size."""
    starts = range(0, len(text), size)
    return [DocumentPart(text[at : at + size], at + size >= len(text), at) for at in starts]


@pytest.mark.parametrize("spec", ["bytes", "train:400"])
@given(text=texts, part=st.integers(1, 20), piece=st.integers(1, 8))
@example(text="a \n b", part=99, piece=1)
@example(text="it's'll", part=1, piece=1)
def test_a_document_in_pieces_has_the_tokens_of_the_whole(
    spec: str, text: str, part: int, piece: int
) -> None:
    tokenizer = tokenizer_of(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        pieces = list(cut_documents(iter(as_parts(text, part)), cuts=True))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(
        pieces
    )
    cut = [id for piece in pieces for id in ids_of(tokenizer, piece.text)]
    assert cut == ids_of(tokenizer, text)


@given(text=texts)
def test_every_safe_place_is_one_by_itself(text: str) -> None:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    whole = [span for _, span in split(text)]
    for place in SAFE_PLACE.finditer(text):
        left, right = text[: place.start()], text[place.start() :]
        shifted = [(a + len(left), b + len(left)) for _, (a, b) in split(right)]
        assert [span for _, span in split(left)] + shifted == whole


@pytest.mark.parametrize(
    "characters",
    [range(0x20000), pytest.param(range(0x20000, sys.maxunicode + 1), marks=pytest.mark.slow)],
)
def test_every_character_that_we_cut_behind_ends_a_match(characters: range) -> None:
    """Hold our idea of white space against the library's, over all of Unicode."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    for start in range(characters.start, characters.stop, 2**12):
        block = (chr(n) for n in range(start, start + 2**12) if not 0xD800 <= n < 0xE000)
        text = "".join(f"{character}\nx" for character in block)
        ends = {end for _, (_, end) in split(text)}
        assert {place.start() for place in SAFE_PLACE.finditer(text)} <= ends


@needs_shared
@given(text=texts, piece=st.integers(1, 8))
def test_gpt2_in_pieces_has_the_tokens_of_the_whole(text: str, piece: int) -> None:
    tokenizer = tokenizer_of(str(GPT2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        pieces = cut_documents(iter(as_parts(text, 7)), cuts=True)
        cut = [id for piece in pieces for id in ids_of(tokenizer, piece.text)]
    assert cut == ids_of(tokenizer, text)


def test_long_text_is_cut_into_pieces_of_about_one_size() -> None:
    text = "word " * 100_000
    sizes = [len(piece.text) for piece in cut_documents(iter(as_parts(text, 70_000)), cuts=True)]
    assert max(sizes) < module.PIECE + 10
    assert len(sizes) == pytest.approx(len(text) / module.PIECE, abs=1)


def test_f42_text_without_a_place_to_cut_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE_LIMIT", 50_000)
    with pytest.raises(
        DataError, match="over 50000 characters without a space or line end.* from 'xx"
    ):
        list(cut_documents(iter(as_parts("x" * 60_000, 7_000)), cuts=True))


def test_a_document_that_must_be_whole_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE_LIMIT", 50_000)
    assert len(list(cut_documents(iter(as_parts("a b " * 12_000, 7_000)), cuts=False))) == 1
    with pytest.raises(DataError, match=r"over 50000 characters in one document.* split that"):
        list(cut_documents(iter(as_parts("a b " * 15_000, 7_000)), cuts=False))


def changed(**changes: object) -> Tokenizer:
    return Tokenizer.from_str(json.dumps({**json.loads(tokenizer_of("bytes").to_str()), **changes}))


def test_what_splits_as_gpt2_does_can_be_cut() -> None:
    assert can_be_cut(tokenizer_of("bytes"))
    assert can_be_cut(tokenizer_of("train:400"))
    assert can_be_cut(changed())


def test_what_splits_otherwise_is_never_cut() -> None:
    byte_level = json.loads(tokenizer_of("bytes").to_str())["pre_tokenizer"]
    assert not can_be_cut(changed(normalizer={"type": "NFC"}))
    assert not can_be_cut(changed(pre_tokenizer=None))
    assert not can_be_cut(changed(pre_tokenizer={**byte_level, "use_regex": False}))
    assert not can_be_cut(changed(pre_tokenizer={**byte_level, "add_prefix_space": True}))
    own_token = tokenizer_of("bytes").to_str()
    tokenizer = Tokenizer.from_str(own_token)
    tokenizer.add_tokens(["a b"])
    assert not can_be_cut(tokenizer)


def test_another_tokenizer_gives_what_it_gives_for_the_whole() -> None:
    tokenizer = changed()
    tokenizer.normalizer = normalizers.Replace(" b", "!")
    parts = iter(as_parts("a b a b", 2))
    pieces = cut_documents(parts, cuts=can_be_cut(tokenizer))
    encoded = list(encode(tokenizer, 256, pieces, workers=2))
    assert encoded[0].ids.tolist() == [*b"a! a!", 256]


def documents(count: int) -> list[DocumentPart]:
    numbers = range(count)
    return [
        DocumentPart(f"text {n}\n" * n, True, n, "valid" if n % 7 == 3 else "train")
        for n in numbers
    ]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_order_is_kept_on_any_number_of_threads(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 3000)
    monkeypatch.setattr(module, "PIECE", 50)
    tokenizer = tokenizer_of("train:400")
    end = resolve("train:400", SAMPLE).separator
    pieces = cut_documents(iter(documents(60)), cuts=True)
    encoded = list(encode(tokenizer, end, pieces, workers))
    for split in ("train", "valid"):
        mine = [piece for piece in documents(60) if piece.split == split]
        ids = np.concatenate([e.ids for e in encoded if e.split == split])
        assert ids.tolist() == [id for p in mine for id in [*ids_of(tokenizer, p.text), end]]
        assert sum(e.documents for e in encoded if e.split == split) == len(mine)
        lengths = [len(piece.text) for piece in mine]
        assert sum(e.text_bytes for e in encoded if e.split == split) == sum(lengths)


def test_little_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    read = []

    def pieces() -> Iterator[DocumentPart]:
        for number in range(1000):
            read.append(number)
            yield DocumentPart("0123456789", True, number)

    results = encode(tokenizer_of("bytes"), 256, pieces(), workers=2)
    next(results)
    assert len(read) < 10
    results.close()
