"""Which text validates depends on seed and documents alone; no text is lost or doubled."""

from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lengthen.data.readers import DocumentPart
from lengthen.data.train_valid_split import (
    FEW,
    SplitRule,
    choose_split_rule,
    sample_texts,
    split_documents,
)

shares = st.floats(0.001, 0.9)
lines = st.text("ab\n", min_size=1, max_size=30)


def parts_of(texts: list[str], size: int = 10**9) -> Iterator[DocumentPart]:
    for text in texts:
        for at in range(0, len(text), size):
            yield DocumentPart(text[at : at + size], at + size >= len(text), 0)


def halves(texts: list[str], rule: SplitRule, size: int = 10**9) -> tuple[list[str], list[str]]:
    """Return the documents of both splits, as whoever reads the parts puts them together."""
    documents: dict[str, list[str]] = {"train": [""], "valid": [""]}
    for part in split_documents(parts_of(texts, size), rule):
        assert part.text
        documents[part.split][-1] += part.text
        if part.is_last:
            documents[part.split].append("")
    assert all(texts.pop() == "" for texts in documents.values())
    return documents["train"], documents["valid"]


@given(count=st.integers(FEW, 200), share=shares, seed=st.integers(0, 2**63))
def test_each_of_many_documents_is_whole_in_one_split_and_one_validates(
    count: int, share: float, seed: int
) -> None:
    texts = [f"document {number}" for number in range(count)]
    train, valid = halves(texts, choose_split_rule(parts_of(texts), share, seed))
    assert sorted(train + valid) == sorted(texts)
    assert valid


def test_about_the_share_validates_and_another_seed_chooses_others() -> None:
    texts = [str(number) for number in range(10_000)]
    chosen = [
        set(halves(texts, choose_split_rule(parts_of(texts), 0.1, seed))[1]) for seed in (0, 1)
    ]
    assert all(900 < len(valid) < 1100 for valid in chosen)
    assert 50 < len(chosen[0] & chosen[1]) < 150


def cut_at_a_line(text: str, head: int) -> bool:
    return 1 <= head <= text[:-1].rfind("\n") + 1 or (head == 0 and "\n" in text[:-1])


@given(texts=st.lists(lines, min_size=1, max_size=FEW - 1), share=shares, size=st.integers(1, 40))
def test_of_few_documents_the_end_validates_from_a_line_end_on(
    texts: list[str], share: float, size: int
) -> None:
    rule = choose_split_rule(parts_of(texts), share, 0)
    train, valid = halves(texts, rule, size)
    assert rule.mark == ("\n" if any(map(cut_at_a_line, texts, rule.heads)) else "")
    tails = iter(valid)
    for text, head in zip(texts, train, strict=True):
        assert text.startswith(head)
        wanted = len(text) - round(len(text) * share)
        assert len(head) >= wanted
        if head != text:
            assert text == head + next(tails)
            assert head.endswith(rule.mark)
            assert len(head) == wanted or rule.mark not in head[max(0, wanted - 1) : -1]
    assert not list(tails)


@given(texts=st.lists(lines, min_size=1, max_size=30), share=shares, size=st.integers(1, 40))
def test_the_parts_that_a_document_comes_in_do_not_matter(
    texts: list[str], share: float, size: int
) -> None:
    rule = choose_split_rule(parts_of(texts), share, 0)
    assert choose_split_rule(parts_of(texts, size), share, 0) == rule
    assert halves(texts, rule, size) == halves(texts, rule)


@pytest.mark.parametrize("size", [1, 2, 7, 10**9])
@pytest.mark.parametrize(
    ("texts", "tails"),
    [
        (["one line of words alone"], ["alone"]),
        (["one line of words alone\n"], ["alone\n"]),
        (["ACGTACGTACGTACGTACGT"], ["TACGT"]),
        (["first line\nand a second one that is longer"], ["is longer"]),
        (["no line end there", "but\none\nmore\nhe\n"], ["he\n"]),
        (["漢字かな漢字かな"], ["かな"]),
        (["ab", "x"], []),
    ],
)
def test_without_a_line_end_the_cut_is_at_a_space_or_anywhere(
    texts: list[str], tails: list[str], size: int
) -> None:
    train, valid = halves(texts, choose_split_rule(parts_of(texts, size), 0.24, 0), size)
    assert valid == tails
    assert "".join(sorted("".join(train + valid))) == "".join(sorted("".join(texts)))


def test_no_share_is_no_validation() -> None:
    texts = ["a\nb\n"] * 3
    assert halves(texts, choose_split_rule(parts_of(texts), 0, 0)) == (texts, [])


def test_no_more_is_read_than_it_takes_to_know_the_rule() -> None:
    parts = parts_of(["text"] * 1000)
    choose_split_rule(parts, 0.5, 0)
    assert sum(1 for _ in parts) >= 1000 - FEW - 10


@given(sizes=st.lists(st.integers(0, 50)), limit=st.integers(0, 300), seed=st.integers(0, 99))
def test_a_sample_keeps_to_its_limit_and_takes_all_if_that_fits(
    sizes: list[int], limit: int, seed: int
) -> None:
    texts = [chr(97 + number % 26) * size for number, size in enumerate(sizes)]
    sample = sample_texts((DocumentPart(text, True, 0) for text in texts), seed, limit)
    assert sum(map(len, sample)) <= limit
    assert not (set(sample) - set(texts))
    if sum(sizes) <= limit:
        assert sorted(sample) == sorted(texts)


@given(seed=st.integers(0, 99))
def test_a_sample_is_from_everywhere(seed: int) -> None:
    texts = [f"{number:04}" for number in range(1000)]
    sample = sample_texts((DocumentPart(text, True, 0) for text in texts), seed, 400)
    assume(len(sample) == 100)
    assert len({text[0] for text in sample}) >= 1
    thirds = [sum(int(text) // 334 == third for text in sample) for third in range(3)]
    assert all(14 < count < 56 for count in thirds)
