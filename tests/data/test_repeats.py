"""Documents that are there twice are counted, and validation text that trains is refused."""

import random

import pytest

from lengthen.data import repeats as module
from lengthen.data.encode import Piece
from lengthen.data.repeats import Repeats
from lengthen.util.errors import DataError


def counted(train: list[str], valid: list[str]) -> dict[str, int]:
    repeats = Repeats()
    pieces = [Piece("train", text, True, 0) for text in train]
    pieces += [Piece("valid", text, True, 0) for text in valid]
    assert list(repeats.passing(iter(pieces))) == pieces
    return repeats.counted()


def test_documents_are_counted_that_stand_there_more_than_once() -> None:
    assert counted(["a", "b", "c"], ["d"]) == {"repeated": 0, "leaked": 0}
    assert counted(["a", "b", "a", "a"], ["long" * 9, "b"]) == {"repeated": 3, "leaked": 1}
    assert counted(["a"], ["d", "d"]) == {"repeated": 1, "leaked": 0}
    assert counted([], []) == {"repeated": 0, "leaked": 0}


def test_a_document_counts_as_a_whole_however_it_was_cut() -> None:
    repeats = Repeats()
    pieces = [("ab", False), ("c", True), ("a", False), ("bc", True), ("ab", True), ("c", True)]
    list(repeats.passing(Piece("train", text, ends, 0) for text, ends in pieces))
    assert repeats.counted() == {"repeated": 1, "leaked": 0}


def test_validation_text_that_trains_is_refused_over_a_tenth_of_it() -> None:
    assert counted(["x" * 10], ["x" * 10, "y" * 90])["leaked"] == 1
    with pytest.raises(DataError, match="1 of 2 validation documents also stand in the training p"):
        counted(["x" * 11], ["x" * 11, "y" * 89])


def test_of_very_many_documents_a_share_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 1000)
    unique = [f"document {number}" for number in range(20_000)]
    train = [*unique, *unique[:5000]]
    random.Random(0).shuffle(train)
    found = counted(train, [*unique[:10], *(f"{text}, validating" for text in unique[:990])])
    # A quarter of the documents twice; a share of 1 in 32 or 64 is kept.
    assert found["repeated"] == pytest.approx(5010, rel=0.25)
