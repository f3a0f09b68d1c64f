"""Which tokens are context and which continuation."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from lengthen.data.tokenizer import resolve
from lengthen.data.tokenizer_files import TextTokenizer
from lengthen.evaluation.requests import Request, requests_of
from lengthen.util.errors import DataError

BYTES = resolve("bytes")


def test_the_continuation_is_what_follows_the_context() -> None:
    (found,) = requests_of(BYTES, [("ab", " c")])
    assert found == Request(tuple(b"ab"), tuple(b" c"))


def test_spaces_that_end_a_context_belong_to_the_continuation() -> None:
    (found,) = requests_of(BYTES, [("ab \n", "c")])
    assert found == Request(tuple(b"ab"), tuple(b" \nc"))


def test_an_empty_context_is_the_separator() -> None:
    found = requests_of(BYTES, [("", "c"), ("  ", "c")])
    assert [each.context for each in found] == [(256,), (256,)]
    assert found[1].continuation == tuple(b"  c")


def test_a_continuation_without_a_token_is_one_line() -> None:
    plain = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(DataError, match="'b' has no token of its own behind its context"):
        requests_of(TextTokenizer(plain, 0), [("a", "b")])


def test_no_texts_are_no_requests() -> None:
    assert requests_of(BYTES, []) == []
