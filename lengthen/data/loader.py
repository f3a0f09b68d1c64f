"""From blocks to a batch: rows of a step, read out of the token store.

Only here do positions become sequences and tokens, and only for the rows that a rank trains on.
Every input keeps its own true successor as its target: a short row loses none, and a row of several
pieces has no false one where they meet.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from lengthen.core.ledger import Block, Piece
from lengthen.core.shuffle import KeyedPermutation, sub_seed
from lengthen.util.errors import DataError, SettingError

Tokens = NDArray[np.uint16] | NDArray[np.uint32]


class Batch(NamedTuple):
    """Rows to train on; both tensors are int64 of (rows, length), on the CPU."""

    inputs: Tensor
    targets: Tensor  # the token that follows each input in the store


class Loader:
    """Reads the batches of a run from its tokens; it has no state, the ledger has it all."""

    def __init__(self, tokens: Tokens, full_length: int, seed: int) -> None:
        """Read from `tokens` (1-D); raises DataError where not one sequence fits, SettingError."""
        if full_length < 1:
            raise SettingError("full_length", "must be at least 1", full_length)
        if len(tokens) <= full_length:
            raise DataError(
                f"corpus: has {len(tokens)} tokens, one sequence of length {full_length} needs "
                f"{full_length + 1}; give more text or a smaller length"
            )
        self.full_length, self.seed = full_length, seed
        self.sequences = (len(tokens) - 1) // full_length  # N; the last one has its last target
        self._tokens = np.asarray(tokens)  # of a memory map, the same memory without its overhead

    def load(self, blocks: tuple[Block, ...], length: int, rows: range) -> Batch:
        """Return some of the rows of a step, laid end to end from its blocks; there may be none."""
        parts = list(self._parts(blocks, rows.start * length, rows.stop * length))
        inputs, targets = (_rows([part[side] for part in parts], length) for side in (0, 1))
        return Batch(inputs, targets)

    def _parts(
        self, blocks: tuple[Block, ...], begin: int, end: int
    ) -> Iterator[tuple[Tokens, Tokens]]:
        """Yield inputs and targets, flat, of the tokens [begin, end) of a step."""
        for block in blocks:
            size = block.tokens // block.count
            low, high = max(begin, 0), min(end, block.tokens)
            if low < high:
                numbers = np.arange(low // size, -(-high // size))
                windows = [self._windows(piece, numbers) for piece in block.pieces]
                cut = slice(low - numbers[0] * size, high - numbers[0] * size)
                inputs = np.concatenate([window[:, :-1] for window in windows], axis=1)
                targets = np.concatenate([window[:, 1:] for window in windows], axis=1)
                yield inputs.ravel()[cut], targets.ravel()[cut]
            begin, end = begin - block.tokens, end - block.tokens

    def _windows(self, piece: Piece, numbers: NDArray[np.int64]) -> Tokens:
        """Return a piece and the token after it: (numbers, piece.tokens + 1)."""
        order = KeyedPermutation(self.sequences, sub_seed(self.seed, "order", piece.epoch))
        starts = order(piece.first + numbers) * self.full_length + piece.offset
        windows: Tokens = sliding_window_view(self._tokens, piece.tokens + 1)[starts]
        return windows


def _rows(parts: list[Tokens], length: int) -> Tensor:
    flat = np.concatenate([np.empty(0, np.int64), *parts], dtype=np.int64)
    return torch.from_numpy(flat.reshape(-1, length))


def accumulation_steps(rows: int, world_size: int, length: int, micro_tokens: int) -> int:
    """Return in how many micro-batches every rank trains its share of a step.

    None is above `micro_tokens` tokens, which must be at least `length`; a short step takes few
    micro-batches of many rows, not many of few.
    """
    most_rows = -(-rows // world_size)  # of a rank
    return -(-most_rows // (micro_tokens // length))


def share(rows: range, part: int, parts: int) -> range:
    """Return part `part` of `parts` of neighbouring rows; they differ by one at most, in order.

    A step is shared out to its ranks, and a rank's rows to its micro-batches.
    """
    first, last = (len(rows) * number // parts for number in (part, part + 1))
    return rows[first:last]
