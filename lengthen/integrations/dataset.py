"""A course as a dataset of numbered passes, in the form in which Transformers' models take them.

Nothing here imports Transformers. An item is what one forward pass trains on, and its number says
which: step, pass and rank. So whoever deals items out in order can skip, share and read ahead.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from lengthen.data.loader import share
from lengthen.data.store import Store
from lengthen.data.stream import Step, StepCursor, StreamState, micro_batch
from lengthen.evaluation.loss import sequences_in
from lengthen.integrations.calls import IGNORED, Batch
from lengthen.integrations.data_plan import Course, PlannedSteps
from lengthen.util.errors import SettingError

Row = dict[str, Tensor]  # input_ids, labels, shift_labels: (length,) int64


class LengthenDataset(Dataset[Row]):
    """Every pass of every step of a course over a token store, in order."""

    def __init__(self, store: str | Path, course: Course) -> None:
        """Open the store in a directory; raises DataError where it cannot be used."""
        self.store, self.course = Store.open(store), course
        self.steps = PlannedSteps(self.store.train, course)
        self._passes, self._world_size = 1, 0  # unknown until the callback meets the Trainer
        self.begin(self.steps.stream.start)

    def divide(self, passes: int, world_size: int) -> None:
        """Cut every step into `passes` for each of `world` ranks."""
        self._passes, self._world_size = passes, world_size

    def begin(self, state: StreamState) -> None:
        """Read from `state` on; the steps before it are not asked for again."""
        self._start, self._cursor = state, StepCursor(self.steps.stream, state)

    @cached_property
    def number_of_steps(self) -> int:
        """How many steps the budget has."""
        return self.course.number_of_steps()

    def __len__(self) -> int:
        """Return how many items the budget has."""
        return self.number_of_steps * self._passes * max(1, self._world_size)

    def __getitems__(self, items: Sequence[int]) -> list[Row]:
        """Return the rows of one item; torch asks for items by lists, whose length is 1 here."""
        if not self._world_size:
            hint = "give Trainer(callbacks=[LengthenCallback(dataset, ...)])"
            raise SettingError("callbacks", "must have the dataset's own", None, hint)
        (item,) = items
        step, number = divmod(item, self._passes * self._world_size)
        # The Trainer deals items out in turns: to all ranks for one pass, then for the next one.
        which, rank = divmod(number, self._world_size)
        batch = self.batch(self._cursor.at(step + 1), which, rank)
        return rows_of(batch.inputs, batch.targets)

    def batch(self, step: Step, which: int, rank: int) -> Batch:
        """Return what pass `which` of a rank trains on in a step; both are counted from 0."""
        rows = share(range(step.plan.rows), rank, self._world_size)
        rows = share(rows, which, self._passes)
        inputs, targets, _, weight = micro_batch(self.steps.loader, step, rows)
        if not weight:
            # A blank row stands in where a rank has none: it must meet its peers, weigh nothing.
            targets = torch.full_like(targets, IGNORED)
        return Batch(inputs, targets, step.plan.tokens)

    def first_row(self) -> Row:
        """Return the first row of the first step."""
        step = self.steps.stream.after(self.steps.stream.start)
        assert step is not None
        first = micro_batch(self.steps.loader, step, range(1))
        return rows_of(first.inputs, first.targets)[0]

    def validation(self, tokens: int = 100_000) -> list[Row]:
        """Return about `tokens` of the validation part as full-length rows, for `eval_dataset`."""
        part, length = self.store.valid, self.course.length
        count = sequences_in(part, length, tokens)
        if not count:
            rule = f"must have a validation part of at least {length + 1} tokens"
            raise SettingError("store", rule, len(part), "prepare it with a larger --valid")
        stream = torch.from_numpy(part[: count * length + 1].astype("int64"))
        return rows_of(stream[:-1].view(count, length), stream[1:].view(count, length))

    def rates(self, optimizer: Optimizer) -> LambdaLR:
        """Return the token clock's rates, for the Trainer's `optimizers=(optimizer, rates)`."""
        return self.course.rates(optimizer)

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker that is started, not forked, the tokens go as the place where they lie.
        return _opened, (self.store.path, self.course, self._passes, self._world_size, self._start)


def _opened(
    store: Path, course: Course, passes: int, world_size: int, start: StreamState
) -> LengthenDataset:
    dataset = LengthenDataset(store, course)
    dataset.divide(passes, world_size)
    dataset.begin(start)
    return dataset


def rows_of(inputs: Tensor, targets: Tensor) -> list[Row]:
    """Return (rows, length) inputs and targets as rows for a causal model of Transformers.

    Its own shift would give one target less than tokens; `shift_labels` are taken as they are.
    Without `labels` no loss would be computed; they are the same, for a loss that knows them alone.
    """
    pairs = zip(inputs, targets, strict=True)
    return [{"input_ids": row, "labels": after, "shift_labels": after} for row, after in pairs]
