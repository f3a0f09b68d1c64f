"""A text of any length, read in windows of the full length that slide over it."""

from collections.abc import Iterator
from itertools import islice

from lengthen.evaluation.model import Subject
from lengthen.evaluation.requests import Request
from lengthen.evaluation.scoring import Score, score
from lengthen.util.console import line as progress_line

PASSES = 8  # windows are laid out for so many passes at a time: all at once would fill the memory


def windows(text: tuple[int, ...], full_length: int, stride: int) -> Iterator[Request]:
    """Yield the windows of a text, whose first token is read and never scored.

    The first window scores up to `full_length` tokens, each later one the next `stride` of them
    (what is left, at the end) behind as much text as fits ahead of them. So every other token is
    scored once. `stride` is 1 to `full_length`, which gives disjoint windows.
    """
    assert 1 <= stride <= full_length
    first, size = 1, full_length
    while first < len(text):
        last = min(first + size, len(text))
        yield Request(text[max(0, last - 1 - full_length) : first], text[first:last])
        first, size = last, stride


def count(text: tuple[int, ...], full_length: int, stride: int) -> int:
    """Return the number of windows of a text."""
    behind_first = max(0, len(text) - 1 - full_length)
    return int(len(text) > 1) + -(-behind_first // stride)


def scores_of(
    subject: Subject, text: tuple[int, ...], stride: int, limit: int | None, label: str
) -> list[Score]:
    """Return the scores of the first `limit` windows of a text, all of them where it is None."""
    length = subject.model.length
    total = count(text, length, stride)
    total = total if limit is None else min(limit, total)
    left = islice(windows(text, length, stride), total)
    group = PASSES * max(1, subject.pass_tokens // length)
    scores: list[Score] = []
    with progress_line(total, label) as progress:
        while requests := list(islice(left, group)):
            scores += score(subject, requests)
            progress.update(len(scores), f"{len(scores):,} of {total:,} windows")
    return scores
