"""A plan as a dataset of numbered micro-batches, as Transformers' models take them.

Nothing here imports Transformers. An item is what one forward pass trains on, and its number says
which: step, micro-batch and rank. So whoever deals items out in order can skip, share and prefetch.
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

from lengthen.data.loader import micro_batch
from lengthen.data.store import Store
from lengthen.data.stream import Step, StepCursor, StreamState, row_range
from lengthen.evaluation.loss import sequences_in
from lengthen.integrations.data_plan import DataPlan, PlannedSteps
from lengthen.integrations.validate import IGNORED, ExpectedBatch
from lengthen.util.errors import SettingError

Row = dict[str, Tensor]  # input_ids, labels, shift_labels: (length,) int64


class LengthenDataset(Dataset[Row]):
    """Every micro-batch of every step of a plan over a token store, in order."""

    def __init__(self, store: str | Path, plan: DataPlan) -> None:
        """Open the store in a directory; raises DataError where it cannot be used."""
        self.store, self.plan = Store.open(store), plan
        self.steps = PlannedSteps(self.store.train, plan)
        self._count, self._world_size = 1, 0  # unknown until the callback meets the Trainer
        self.start_at(self.steps.stream.start)

    def divide(self, count: int, world_size: int) -> None:
        """Cut every step into `count` micro-batches for each of `world_size` ranks."""
        self._count, self._world_size = count, world_size

    def start_at(self, state: StreamState) -> None:
        """Read from `state` on; the steps before it are not asked for again."""
        self._start, self._cursor = state, StepCursor(self.steps.stream, state)

    @cached_property
    def number_of_steps(self) -> int:
        """How many steps the budget has."""
        return self.plan.number_of_steps()

    def __len__(self) -> int:
        """Return how many items the budget has."""
        return self.number_of_steps * self._count * max(1, self._world_size)

    def __getitems__(self, items: Sequence[int]) -> list[Row]:
        """Return the rows of one item; torch asks for items by lists, whose length is 1 here."""
        if not self._world_size:
            hint = "give Trainer(callbacks=[LengthenCallback(dataset, ...)])"
            raise SettingError("callbacks", "must have the dataset's own", None, hint)
        (item,) = items
        step, number = divmod(item, self._count * self._world_size)
        # The Trainer deals items out in turns: to all ranks for one micro-batch, then for the next.
        number, rank = divmod(number, self._world_size)
        batch = self.batch(self._cursor.at(step + 1), number, rank)
        return rows_of(batch.inputs, batch.targets)

    def batch(self, step: Step, number: int, rank: int) -> ExpectedBatch:
        """Return what micro-batch `number`, from 0, of a rank trains on in a step."""
        rows = row_range(step.plan, rank, self._world_size, number, self._count)
        inputs, targets, _, share = micro_batch(self.steps.loader, step, rows)
        if not share:
            # A blank row stands in where a rank has none: it must meet its peers, weigh nothing.
            targets = torch.full_like(targets, IGNORED)
        return ExpectedBatch(inputs, targets, step.plan.tokens)

    def first_row(self) -> Row:
        """Return the first row of the first step."""
        step = self.steps.stream.after(self.steps.stream.start)
        assert step is not None
        first = micro_batch(self.steps.loader, step, range(1))
        return rows_of(first.inputs, first.targets)[0]

    def validation(self, tokens: int = 100_000) -> list[Row]:
        """Return about `tokens` of the validation part as full-length rows, for `eval_dataset`."""
        return rows_of(*full_length_rows(self.store, self.plan.length, tokens))

    def lr_scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """Return the plan's scheduler, for the Trainer's `optimizers=(optimizer, scheduler)`."""
        return self.plan.lr_scheduler(optimizer)

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker that is started, not forked, the tokens go as the place where they lie.
        return _opened, (self.store.path, self.plan, self._count, self._world_size, self._start)


def _opened(
    store: Path, plan: DataPlan, count: int, world_size: int, start: StreamState
) -> LengthenDataset:
    dataset = LengthenDataset(store, plan)
    dataset.divide(count, world_size)
    dataset.start_at(start)
    return dataset


def rows_of_rank(rows: Any, args: Any) -> list[Row]:
    """Return this rank's share of rows as `validation` has them; SettingError for any others.

    `args` are the arguments of a Trainer.
    """
    mine = [rows[number] for number in range(args.process_index, len(rows), args.world_size)]
    if not all({"input_ids", "shift_labels"} <= row.keys() for row in mine):
        each = args.world_size * args.eval_batch_size
        rule = f"must have a number of rows that {each} divides (processes times their batch)"
        hint = "leave some out, or give eval_dataset=dataset.validation()"
        raise SettingError("eval_dataset", rule, len(rows), hint)
    return mine


def full_length_rows(store: Store, length: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Return about `tokens` of the validation part: inputs and targets, (rows, length) int64."""
    part = store.valid
    count = sequences_in(part, length, tokens)
    if not count:
        rule = f"must have a validation part of at least {length + 1} tokens"
        raise SettingError("store", rule, len(part), "prepare it with a larger --valid")
    stream = torch.from_numpy(part[: count * length + 1].astype("int64"))
    return stream[:-1].view(count, length), stream[1:].view(count, length)


def rows_of(inputs: Tensor, targets: Tensor) -> list[Row]:
    """Return (rows, length) inputs and targets as rows for a causal model of Transformers.

    Its own shift would give one target less than tokens; `shift_labels` are taken as they are.
    Without `labels` no loss would be computed; they are the same, for a loss that knows them alone.
    """
    pairs = zip(inputs, targets, strict=True)
    return [{"input_ids": row, "labels": after, "shift_labels": after} for row, after in pairs]
