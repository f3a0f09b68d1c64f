"""Which text is for validation, and which the tokenizer learns from: chosen by seed, in one look.

Each choice is a hash of the seed and a number, so it depends on the documents and their order
alone, not on files, formats or cores.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from lengthen.core.shuffle import sub_seed
from lengthen.data.encode import Piece
from lengthen.data.readers import Part

FEW = 20  # documents; fewer are divided inside
SAMPLE_LIMIT = 100 * 10**6  # bytes of text that a tokenizer learns from


@dataclass(frozen=True)
class Division:
    """The rule that divides a corpus into a training and a validation part."""

    seed: int
    share: float  # of the documents, roughly; of each document's characters where there are few
    lowest: int | None = None  # a document that validates in any case, so that one does
    heads: tuple[int, ...] = ()  # where there are few: characters of each that surely train
    mark: str = "\n"  # what a document is cut behind; nothing: anywhere

    def is_valid(self, number: int) -> bool:
        """Say whether document `number` is for validation."""
        return number == self.lowest or _chance(self.seed, "valid", number) < self.share


def divide(parts: Iterator[Part], share: float, seed: int) -> Division:
    """Look at as many documents as it takes to know the rule: all, where there are few.

    With FEW documents or more each is for validation with probability `share`, and if chance
    takes none, the one nearest to it is. With fewer, the end of each is, from a line end on; if no
    end has one, from a space on; if none has that either, to the character.
    """
    if share == 0:
        return Division(seed, share)
    few: list[_Shape] = []
    shape = _Shape()
    lowest: tuple[float, int] = (1.0, 0)
    number = 0
    for part in parts:
        shape = shape.then(part)
        if not part.ends:
            continue
        if number < FEW:
            few.append(shape)
        lowest = min(lowest, (_chance(seed, "valid", number), number))
        number, shape = number + 1, _Shape()
        if number >= FEW and lowest[0] < share:
            break  # enough are there, and one of them validates by chance already
    if number < FEW:
        heads = tuple(one.size - round(one.size * share) for one in few)
        return Division(seed, share, heads=heads, mark=_mark(few, heads))
    return Division(seed, share, lowest=lowest[1])


@dataclass(frozen=True)
class _Shape:
    """Where a document may be cut: characters in front of the last places inside of it."""

    size: int = 0
    line: int = 0
    space: int = 0

    def then(self, part: Part) -> "_Shape":
        inside = len(part.text) - part.ends  # behind the last character there is nothing to cut
        line, space = (part.text.rfind(mark, 0, inside) + 1 for mark in "\n ")
        return _Shape(
            size=self.size + len(part.text),
            line=self.size + line if line else self.line,
            space=self.size + space if space else self.space,
        )


def _mark(few: list[_Shape], heads: tuple[int, ...]) -> str:
    """Return what some document has behind its head, so that some text validates."""
    pairs = [(one, max(1, head)) for one, head in zip(few, heads, strict=True)]
    if any(one.line >= head for one, head in pairs):
        return "\n"
    return " " if any(one.space >= head for one, head in pairs) else ""


def divided(parts: Iterator[Part], division: Division) -> Iterator[Piece]:
    """Send every part to training or to validation."""
    if division.heads:
        yield from _ends_cut_off(parts, division.heads, division.mark)
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


def _ends_cut_off(parts: Iterator[Part], heads: tuple[int, ...], mark: str) -> Iterator[Piece]:
    """Cut each document behind the first mark that leaves at least its head for training."""
    remaining = iter(heads)
    left, behind = next(remaining), False  # characters of the head to come; behind the cut?
    for part in parts:
        cut = part.text.find(mark, max(0, left - len(mark))) + len(mark)
        if behind:
            yield _piece(part, "valid")
        elif cut <= 0 or (cut == len(part.text) and part.ends):
            yield _piece(part, "train")
        else:
            behind = True
            yield Piece("train", part.text[:cut], True, part.at)
            if cut < len(part.text):
                yield Piece("valid", part.text[cut:], part.ends, part.at)
        left -= len(part.text)
        if part.ends:
            left, behind = next(remaining, 0), False
