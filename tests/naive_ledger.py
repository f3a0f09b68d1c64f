"""The ledger's rules once more, for single sequences and single rows, to hold the real one against.

Slow and plain: it keeps every open sequence by itself, and gives every token by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from lengthen.core.ledger import Block

Token = tuple[int, int, int]  # pass, position in its order, place in the sequence


@dataclass
class Open:
    position: int
    offset: int
    read_at: int


@dataclass
class NaiveLedger:
    sequences: int
    full_length: int
    reuse_after: int
    leftovers: str
    takes: int = 0
    epoch: int = 0
    fresh: list[int] = field(default_factory=list)
    queue: list[Open] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fresh = list(range(self.sequences))

    def take(self, rows: int, length: int) -> list[Token]:
        tokens: list[Token] = []
        if self.leftovers == "in_place":  # what steps at full length read
            rows, length = rows * length // self.full_length, self.full_length
        while len(tokens) < rows * length:
            tokens += self._next(len(tokens), length)
        self.takes += 1
        return tokens

    def _next(self, done: int, length: int) -> list[Token]:
        if not self.fresh and not self.queue:
            self.epoch += 1
            self.fresh = list(range(self.sequences))
        if not self.fresh:
            return self._advance(self.queue.pop(0), 1, to_front=True)
        room = length - done % length
        if room < length or length == self.full_length or not self._front_is_ripe():
            return self._advance(self._open_fresh(), room)
        front = self.queue.pop(0)
        scrap = self.full_length - front.offset
        if scrap >= length:
            return self._advance(front, length)
        return self._advance(front, scrap) + self._advance(self._open_fresh(), length - scrap)

    def _open_fresh(self) -> Open:
        return Open(self.fresh.pop(0), 0, self.takes)

    def _front_is_ripe(self) -> bool:
        return bool(self.queue) and self.takes - self.queue[0].read_at >= self.reuse_after

    def _advance(self, one: Open, tokens: int, to_front: bool = False) -> list[Token]:
        places = range(one.offset, one.offset + tokens)
        one.offset += tokens
        one.read_at = self.takes
        if one.offset < self.full_length and self.leftovers == "requeue":
            self.queue.insert(0 if to_front else len(self.queue), one)
        return [(self.epoch, one.position, place) for place in places]


def tokens_of(blocks: tuple[Block, ...]) -> Iterator[Token]:
    """Yield a step's tokens in the order of its batch, as the contract of `Block` reads."""
    for block in blocks:
        for i in range(block.count):
            for piece in block.pieces:
                for place in range(piece.offset, piece.offset + piece.tokens):
                    yield piece.epoch, piece.first + i, place
