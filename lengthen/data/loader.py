"""From blocks to micro-batches: rows of a step, read out of the token store.

Only here do positions become sequences and tokens, and only for the rows that a rank trains on.
Every input keeps its own true successor as its target: a short row loses none, and a row of several
pieces has no false one where they meet.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lengthen.core.ledger import Block, Piece
from lengthen.core.schedule import StepPlan
from lengthen.core.shuffle import KeyedPermutation, sub_seed
from lengthen.data.stream import Step, row_range
from lengthen.data.token_row import TokenRow, Tokens, windows
from lengthen.util.errors import DataError, SettingError


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
        array = isinstance(tokens, np.ndarray | TokenRow)
        if not array or tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            got = f"{tokens.dtype} {np.shape(tokens)}" if array else type(tokens).__name__
            rule, hint = "must be a 1-D array of whole numbers", 'such as Store.open("store").train'
            raise SettingError("tokens", rule, got, hint)
        if len(tokens) <= full_length:
            raise DataError(
                f"corpus: has {len(tokens)} tokens, one sequence of length {full_length} needs "
                f"{full_length + 1}; give more text or a smaller length"
            )
        self.full_length, self.seed = full_length, seed
        self.sequences = (len(tokens) - 1) // full_length  # N; the last one has its last target
        # Of a memory map, the same memory without its overhead.
        self._tokens = tokens if isinstance(tokens, TokenRow) else np.asarray(tokens)

    def load(self, blocks: tuple[Block, ...], length: int, rows: range) -> Batch:
        """Return some of the rows of a step, laid end to end from its blocks; there may be none."""
        parts = list(self._parts(blocks, rows.start * length, rows.stop * length))
        inputs, targets = (_rows([part[side] for part in parts], length) for side in (0, 1))
        return Batch(inputs, targets)

    def _parts(
        self, blocks: tuple[Block, ...], begin: int, end: int
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield inputs and targets, flat, of the tokens [begin, end) of a step."""
        for block in blocks:
            size = block.tokens // block.count
            low, high = max(begin, 0), min(end, block.tokens)
            if low < high:
                numbers = np.arange(low // size, -(-high // size))
                pieces = [self._windows(piece, numbers) for piece in block.pieces]
                cut = slice(low - numbers[0] * size, high - numbers[0] * size)
                inputs = np.concatenate([piece[:, :-1] for piece in pieces], axis=1)
                targets = np.concatenate([piece[:, 1:] for piece in pieces], axis=1)
                yield inputs.ravel()[cut], targets.ravel()[cut]
            begin, end = begin - block.tokens, end - block.tokens

    def _windows(self, piece: Piece, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return a piece and the token after it: (numbers, piece.tokens + 1)."""
        order = KeyedPermutation(self.sequences, sub_seed(self.seed, "order", piece.epoch))
        starts = order(piece.first + numbers) * self.full_length + piece.offset
        return windows(self._tokens, starts, piece.tokens + 1)


def _rows(parts: list[NDArray[Any]], length: int) -> Tensor:
    flat = np.concatenate([np.empty(0, np.int64), *parts], dtype=np.int64)
    return torch.from_numpy(flat.reshape(-1, length))


def row_starts(plan: StepPlan, step: int, full_length: int) -> Tensor:
    """Return the first positions of the rows of a step, counted from 0, where they spread.

        (B t + k) mod (L / l) * l                                       for row k of step t

    So the rows of a step lie evenly over the full length, or go on where the last step's ended if
    they are too few, and rows that are cut in place start where they lie in their sequence. (rows,)
    int64; raises SettingError for a length that does not divide the full one.
    """
    slots, rest = divmod(full_length, plan.length)
    if rest:
        rule = f"must have lengths that divide model.length ({full_length})"
        raise SettingError("pacing", rule, plan.length)
    return (plan.rows * step + torch.arange(plan.rows, device="cpu")) % slots * plan.length


class MicroBatch(NamedTuple):
    """What one forward and backward pass trains on; at least one row."""

    inputs: Tensor  # (rows, length) int64
    targets: Tensor  # (rows, length) int64: the token that follows each input in the store
    length: int  # tokens
    share: float  # of the step's tokens; 0 where there were too few rows, and a blank one stands in


def micro_batch(loader: Loader, step: Step, rows: range) -> MicroBatch:
    """Load some rows of a step as one micro-batch, on the CPU."""
    return _micro_batch(loader.load(step.blocks, step.plan.length, rows), step.plan)


def micro_batches(
    batch: Batch, plan: StepPlan, rank: int, world_size: int, count: int
) -> list[MicroBatch]:
    """Cut a rank's rows of a step into `count` micro-batches, on the device of the batch."""
    parts = [row_range(plan, rank, world_size, number, count) for number in range(count)]
    first = parts[0].start
    return [
        _micro_batch(Batch(*(side[p.start - first : p.stop - first] for side in batch)), plan)
        for p in parts
    ]


def _micro_batch(batch: Batch, plan: StepPlan) -> MicroBatch:
    if rows := len(batch.inputs):
        return MicroBatch(*batch, plan.length, rows / plan.rows)
    # Every rank needs as many micro-batches as its peers, or they wait for it for ever.
    blank = batch.inputs.new_zeros((1, plan.length), dtype=torch.int64)
    return MicroBatch(blank, blank, plan.length, 0.0)
