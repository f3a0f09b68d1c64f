"""The ledger: what of the corpus has been read, what is left, and what comes next.

It deals in positions of an epoch's order, never in tokens or in sequence numbers, and in stretches
of neighbouring positions that were treated alike. So its size does not depend on the corpus, and
every rank computes the same blocks without asking another.

The paper drops what a short step does not read of a sequence; `leftovers="requeue"` reads it later,
so that over an epoch each of the N * L tokens is an input exactly once. With "in_place" a step
reads whole sequences, cut into rows of its length: just what a full-length step would read.

Rows cut in place are the rows of SkyLadder (arXiv:2503.15450), which keeps its sequences whole and
lets attention see one window of each: with rotary positions, which know distances alone, and its
block-causal mask both give the same losses and gradients where the window divides L. Its code
(sail-sg/SkyLadder@8ef4156, lit_gpt/packed_dataset.py) also takes windows that do not, and leaves a
shorter one at the end of each sequence; it widens them by 1 token each i-th step, from 32 on.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from itertools import chain
from operator import attrgetter, index
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lengthen.util.errors import CheckpointError, SettingError, nearest

Leftovers = Literal["requeue", "drop", "in_place"]
State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Open sequences: positions first .. first + count, each with its tokens [offset, L) unread."""

    first: int
    count: int
    offset: int  # tokens
    read_at: int  # the step, by the ledger's own count, that last read of them

    def precedes(self, other: "Stretch") -> bool:
        """Return whether `other` carries on where this one ends, read as far."""
        return self.first + self.count == other.first and self.offset == other.offset


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens [offset, offset + tokens) of the sequence at position `first` of an epoch."""

    epoch: int
    first: int
    offset: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Block:
    """`count` times the same pieces, each of them one position further every time.

        for i in range(count): for p in pieces: p.tokens from p.offset on of position p.first + i

    The blocks of a step, laid end to end, are its batch row by row; a row crosses the border of two
    blocks only where an epoch ends.
    """

    count: int
    pieces: tuple[Piece, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the whole block."""
        return self.count * sum(piece.tokens for piece in self.pieces)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What has been read, after some number of takes; a take gives the next ledger.

    The queue has at most R + 3 c stretches after c changes of rows or length where the rows never
    rise, as in all our pacings; where they rise while steps are short, a change may add R more.
    """

    sequences: int  # N
    full_length: int  # L, tokens
    reuse_after: int  # R: steps that a sequence rests before its leftover is read
    leftovers: Leftovers
    takes: int = 0  # steps so far
    epoch: int = 0
    opened: int = 0  # sequences of this epoch; also the next position to open
    dropped: int = 0  # tokens, of the whole run
    queue: tuple[Stretch, ...] = ()  # open sequences, in the order of `read_at`

    @classmethod
    def start(
        cls,
        *,
        sequences: int,
        full_length: int,
        reuse_after: int,
        leftovers: Leftovers = "requeue",
    ) -> "Ledger":
        """Return the ledger of a corpus of which nothing has been read; raises SettingError."""
        for name, value in (
            ("sequences", sequences),
            ("full_length", full_length),
            ("reuse_after", reuse_after),
        ):
            if value < 1:
                raise SettingError(name, "must be at least 1", value)
        if leftovers not in get_args(Leftovers):
            hint = nearest(str(leftovers), get_args(Leftovers))
            raise SettingError("leftovers", "no such way", leftovers, hint)
        return cls(
            sequences=sequences,
            full_length=full_length,
            reuse_after=reuse_after,
            leftovers=leftovers,
        )

    def take(self, rows: int, length: int) -> tuple[tuple[Block, ...], "Ledger"]:
        """Return what the next step reads, rows * length tokens, and the ledger after it.

        This ledger stays as it is, so that a step can be repeated. Costs as much as the stretches
        that it touches, not the rows. Raises SettingError for less than one row or token, for a
        length above the full one, and with "in_place" for rows that are no whole sequences.
        """
        rows, length = index(rows), index(length)  # numpy's integers would not go into JSON
        if rows < 1:
            raise SettingError("rows", "must be at least 1", rows)
        if not 1 <= length <= self.full_length:
            raise SettingError("length", f"must be from 1 to {self.full_length}", length)
        rows, length = self._uncut(rows, length)
        ledger, blocks, missing = self._settled(), [], rows * length
        while missing:
            block, ledger = ledger._read(missing, length)
            blocks.append(block)
            missing -= block.tokens
        return tuple(blocks), replace(ledger, takes=self.takes + 1)

    def _uncut(self, rows: int, length: int) -> tuple[int, int]:
        """Return the rows and the length that are read; in place those of whole sequences."""
        if self.leftovers != "in_place":
            return rows, length
        pieces, rest = divmod(self.full_length, length)
        if rest:
            rule = f"must have lengths that divide {self.full_length} in place"
            raise SettingError("pacing", rule, length)
        if rows % pieces:
            raise SettingError("rows", f"must be a multiple of {pieces} in place", rows)
        return rows // pieces, self.full_length

    def after(self, rows: int, length: int, steps: int) -> "Ledger":
        """Return the ledger after so many equal takes, whole epochs skipped.

        For steps at full length, or without "requeue", where no sequence waits for another step and
        only the number of rows matters. All counts are exact; the ages of a queue are those of one
        take.
        """
        assert length == self.full_length or self.leftovers != "requeue"
        rows, length = self._uncut(rows, length)
        total, ledger, skipped = rows * steps, self, 0
        if total > 2 * self.sequences:
            # One epoch later, nothing is left of what shorter steps have left.
            _, ledger = ledger.take(self.sequences, length)
            skipped, total = divmod(total - self.sequences, self.sequences)
            dropped = skipped * self.sequences * (self.full_length - length)
            ledger = replace(
                ledger,
                epoch=ledger.epoch + skipped,
                dropped=ledger.dropped + dropped,
            )
        if total:
            _, ledger = ledger.take(total, length)
        return replace(ledger, takes=self.takes + steps)

    def _read(self, missing: int, length: int) -> tuple[Block, "Ledger"]:
        if not self.fresh and not self.queue:
            return replace(self, epoch=self.epoch + 1, opened=0)._read(missing, length)
        if not self.fresh:
            return self._drain(missing)
        if missing % length:  # the end of an epoch has left a row unfinished
            return self._open(1, missing % length)
        rows = missing // length
        if length == self.full_length or not self.queue or self.queue[0].read_at > self._ripe:
            return self._open(rows, length)
        if self.full_length - self.queue[0].offset >= length:
            return self._read_on(rows, length)
        return self._join(rows, length)

    def _open(self, rows: int, length: int) -> tuple[Block, "Ledger"]:
        """Read rows of one fresh sequence each."""
        count = min(rows, self.fresh)
        piece = Piece(self.epoch, self.opened, 0, length)
        return Block(count, (piece,)), self._opened(count, length)

    def _read_on(self, rows: int, length: int) -> tuple[Block, "Ledger"]:
        """Read rows of the front stretch, which has enough tokens left for whole rows."""
        front = self.queue[0]
        count = min(rows, front.count)
        piece = Piece(self.epoch, front.first, front.offset, length)
        ledger = self._without_front(count)
        return Block(count, (piece,)), ledger._put_back(front.first, count, front.offset + length)

    def _join(self, rows: int, length: int) -> tuple[Block, "Ledger"]:
        """Read rows that begin with the last tokens of an open sequence and end in a fresh one."""
        front = self.queue[0]
        count = min(rows, front.count, self.fresh)
        scrap = self.full_length - front.offset
        pieces = (
            Piece(self.epoch, front.first, front.offset, scrap),
            Piece(self.epoch, self.opened, 0, length - scrap),
        )
        return Block(count, pieces), self._without_front(count)._opened(count, length - scrap)

    def _drain(self, missing: int) -> tuple[Block, "Ledger"]:
        """Read open sequences to their end, or of one as much as is missing."""
        front = self.queue[0]
        left = self.full_length - front.offset
        count = min(front.count, missing // left)
        if count:
            piece = Piece(self.epoch, front.first, front.offset, left)
            return Block(count, (piece,)), self._without_front(count)
        piece = Piece(self.epoch, front.first, front.offset, missing)
        rest = replace(front, count=1, offset=front.offset + missing)
        others = self._without_front(1)
        return Block(1, (piece,)), replace(others, queue=(rest, *others.queue))

    def _opened(self, count: int, length: int) -> "Ledger":
        ledger = replace(self, opened=self.opened + count)
        if self.leftovers == "drop":
            return replace(ledger, dropped=self.dropped + count * (self.full_length - length))
        return ledger._put_back(self.opened, count, length)

    def _without_front(self, count: int) -> "Ledger":
        front, others = self.queue[0], self.queue[1:]
        if count < front.count:
            rest = replace(front, first=front.first + count, count=front.count - count)
            others = (rest, *others)
        return replace(self, queue=others)

    def _put_back(self, first: int, count: int, offset: int) -> "Ledger":
        """Queue the sequences that this step has read up to `offset`, if that is not their end."""
        if offset == self.full_length:
            return self
        return replace(self, queue=(*self.queue, Stretch(first, count, offset, self.takes)))

    def _settled(self) -> "Ledger":
        """Join the stretch that becomes ripe at this step to the ripe one before it, where it fits.

        Once ripe, the age of a stretch is of no more use. Without this, steps of fewer rows than
        the stretches have would cut them at ever new places, down to single sequences.
        """
        place = bisect_left(self.queue, self._ripe, key=attrgetter("read_at"))
        if not 0 < place < len(self.queue):
            return self
        before, ripened = self.queue[place - 1 : place + 1]
        if ripened.read_at > self._ripe or not before.precedes(ripened):
            return self
        # The later age, so that the queue stays in its order.
        both = replace(ripened, first=before.first, count=before.count + ripened.count)
        return replace(self, queue=(*self.queue[: place - 1], both, *self.queue[place + 1 :]))

    @property
    def _ripe(self) -> int:
        return self.takes - self.reuse_after  # whatever was last read then or earlier may be read

    @property
    def fresh(self) -> int:
        """Sequences that this epoch has not opened."""
        return self.sequences - self.opened

    @property
    def leftover(self) -> int:
        """Unread tokens of the open sequences."""
        return sum(one.count * (self.full_length - one.offset) for one in self.queue)

    @property
    def unread(self) -> int:
        """Tokens that this epoch has still to read; with "drop", also some that it will drop."""
        return self.fresh * self.full_length + self.leftover

    @property
    def read(self) -> int:
        """Tokens read in the whole run."""
        epochs = self.epoch + 1
        return epochs * self.sequences * self.full_length - self.unread - self.dropped

    def state(self) -> State:
        """Return everything as plain numbers, text and lists, for JSON."""
        return {**vars(self), "queue": [list(astuple(stretch)) for stretch in self.queue]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Ledger":
        """Return the ledger that gave `state`; raises CheckpointError for what no ledger gives."""
        try:
            ledger = cls(**{**state, "queue": tuple(Stretch(*one) for one in state["queue"])})
            sound = state.keys() == vars(ledger).keys() and _is_sound(ledger)
        except (KeyError, TypeError):
            sound = False
        if not sound:
            raise CheckpointError("ledger state: is not one of a ledger; take another checkpoint")
        return ledger


def _is_sound(ledger: Ledger) -> bool:
    return (
        _all_whole(ledger)
        and min(ledger.sequences, ledger.full_length, ledger.reuse_after) >= 1
        and min(ledger.takes, ledger.epoch, ledger.dropped, ledger.read) >= 0
        and 0 <= ledger.opened <= ledger.sequences
        and ledger.leftovers in get_args(Leftovers)
        and all(_is_open(stretch, ledger) for stretch in ledger.queue)
        and sorted(ledger.queue, key=attrgetter("read_at")) == list(ledger.queue)
    )


def _all_whole(ledger: Ledger) -> bool:
    own = [value for name, value in vars(ledger).items() if name not in ("leftovers", "queue")]
    return all(type(number) is int for number in chain(own, *map(astuple, ledger.queue)))


def _is_open(stretch: Stretch, ledger: Ledger) -> bool:
    return (
        0 <= stretch.first < stretch.first + stretch.count <= ledger.opened
        and 0 < stretch.offset < ledger.full_length
        and 0 <= stretch.read_at < ledger.takes
    )


def reuse_spacing(reuse_after: int, rows: int, sequences: int) -> int:
    """Return R: `reuse_after`, or less where R steps of `rows` would open over an eighth of N."""
    return min(reuse_after, max(1, sequences // (8 * rows)))


def joined_tokens(blocks: tuple[Block, ...], length: int) -> int:
    """Return how many tokens of a step lie in rows of more than one piece."""
    ends = piece_ends(blocks)
    return int(np.unique(ends[ends % length > 0] // length).size) * length


def piece_ends(blocks: tuple[Block, ...]) -> NDArray[np.int64]:
    """Return where each piece of a step ends, in tokens of the step laid end to end: (pieces,)."""
    sizes = [[piece.tokens for piece in block.pieces] * block.count for block in blocks]
    return np.cumsum(np.concatenate(sizes), dtype=np.int64)
