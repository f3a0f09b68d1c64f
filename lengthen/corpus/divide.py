"""Which text is for validation, and which the tokenizer learns from: chosen by seed, in one look.

Each choice is a hash of the seed and a number, so it depends on the documents and their order
alone, not on files, formats or cores.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from lengthen.corpus.encode import Piece
from lengthen.corpus.readers import Part
from lengthen.order import sub_seed

FEW = 20  # documents; fewer are divided inside
SAMPLE_LIMIT = 100 * 10**6  # bytes of text that a tokenizer learns from


@dataclass(frozen=True)
class Division:
    """The rule that divides a corpus into a training and a validation part."""

    seed: int
    share: float  # of the documents, roughly; of each document's characters where there are few
    lowest: int | None = None  # a document that validates in any case, so that one does
    heads: tuple[int, ...] = ()  # where there are few: characters of each that surely train

    def is_valid(self, number: int) -> bool:
        """Say whether document `number` is for validation."""
        return number == self.lowest or _chance(self.seed, "valid", number) < self.share


def divide(parts: Iterator[Part], share: float, seed: int) -> Division:
    """Look at as many documents as it takes to know the rule: all, where there are few.

    With FEW documents or more each is for validation with probability `share`, and if chance
    takes none, the one nearest to it is. With fewer, the end of each is.
    """
    if share == 0:
        return Division(seed, share)
    sizes: list[int] = []
    lowest: tuple[float, int] = (1.0, 0)
    number = size = 0
    for part in parts:
        size += len(part.text)
        if not part.ends:
            continue
        if number < FEW:
            sizes.append(size)
        lowest = min(lowest, (_chance(seed, "valid", number), number))
        number, size = number + 1, 0
        if number >= FEW and lowest[0] < share:
            break  # enough are there, and one of them validates by chance already
    if number < FEW:
        return Division(seed, share, heads=tuple(size - round(size * share) for size in sizes))
    return Division(seed, share, lowest=lowest[1])


def divided(parts: Iterator[Part], division: Division) -> Iterator[Piece]:
    """Send every part to training or to validation."""
    if division.heads:
        yield from _ends_cut_off(parts, division.heads)
        return
    number = 0
    for part in parts:
        yield _piece(part, "valid" if division.is_valid(number) else "train")
        number += part.ends


def undivided(parts: Iterator[Part], split: str) -> Iterator[Piece]:
    """Send every part to one split."""
    return (_piece(part, split) for part in parts)


def sampled(pieces: Iterator[Piece], seed: int, limit: int = SAMPLE_LIMIT) -> list[str]:
    """Return a sample of at most `limit` bytes: all pieces, or those with the lowest hashes."""
    heap: list[tuple[float, str]] = []  # the highest hash first, to be dropped first
    size = 0
    for number, piece in enumerate(pieces):
        heapq.heappush(heap, (-_chance(seed, "sample", number), piece.text))
        size += len(piece.text.encode())
        # Bottom-k sampling: what stays depends on the hashes, not on when the limit was met.
        while size > limit:
            size -= len(heapq.heappop(heap)[1].encode())
    return [text for _, text in heap]


def _chance(seed: int, purpose: str, number: int) -> float:
    return sub_seed(seed, purpose, number) / 2.0**63


def _piece(part: Part, split: str) -> Piece:
    return Piece(split, part.text, part.ends, part.at)


def _ends_cut_off(parts: Iterator[Part], heads: tuple[int, ...]) -> Iterator[Piece]:
    """Cut each document at the first line end that leaves at least its head for training."""
    remaining = iter(heads)
    left, behind = next(remaining), False  # characters of the head to come; behind the cut?
    for part in parts:
        cut = part.text.find("\n", max(0, left - 1)) + 1
        if behind:
            yield _piece(part, "valid")
        elif cut == 0 or (cut == len(part.text) and part.ends):
            yield _piece(part, "train")
        else:
            behind = True
            yield Piece("train", part.text[:cut], True, part.at)
            if cut < len(part.text):
                yield Piece("valid", part.text[cut:], part.ends, part.at)
        left -= len(part.text)
        if part.ends:
            left, behind = next(remaining, 0), False
