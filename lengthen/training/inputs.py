"""What this rank trains the steps of a run on, each read while the one before it computes.

The steps follow from the run's state alone, so that a thread can read the next one early. What it
has read is no state: a run that stops, resumes or observes takes the same steps without it.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lengthen.config.schema import Config
from lengthen.data.documents import documents_in
from lengthen.data.loader import Batch, Loader, row_starts
from lengthen.data.store import Store
from lengthen.data.stream import Step, StepStream, StreamState, row_range
from lengthen.distributed.context import DistributedContext
from lengthen.util.errors import SettingError

CPU = torch.device("cpu")
Sides = tuple[Tensor | None, Tensor | None]  # starts and documents of rows: see GPT.forward


class StepInput(NamedTuple):
    """The rows of a step that this rank trains on, and what belongs to each of them."""

    batch: Batch
    sides: Sides

    def on_each(self, work: Callable[[Tensor], Tensor]) -> "StepInput":
        """Return it with `work` done on every tensor."""
        starts, documents = (None if side is None else work(side) for side in self.sides)
        return StepInput(Batch(*map(work, self.batch)), (starts, documents))


class StepInputs:
    """The steps of one run and what one rank trains them on."""

    def __init__(self, config: Config, store: Store, context: DistributedContext) -> None:
        self.loader = Loader(store.train, config.model.length, config.run.seed)
        self.stream = StepStream(
            config.schedule(self.loader.sequences),
            self.loader.sequences,
            reuse_after=config.batch.reuse_after,
        )
        self.separator = store.separator if config.data.documents == "mask" else None
        self._spread = config.model.positions_start == "spread"
        self._context = context
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._ahead: tuple[StreamState, Step, Future[StepInput]] | None = None

    def step_after(self, state: StreamState) -> Step | None:
        """Return the step that follows `state`; None where the budget is spent."""
        if self._ahead:
            # The objects that the last step left: comparing what is in them would take long.
            before, step, _ = self._ahead
            if before.counters is state.counters and before.ledger is state.ledger:
                return step
        return self.stream.after(state)

    def of(self, step: Step) -> StepInput:
        """Return what to train a step on, on the rank's device; a thread reads the next step's."""
        ahead, self._ahead = self._ahead, None
        found = ahead[2].result() if ahead and ahead[1] is step else self._read(step)
        self._read_after(step.after)
        return found.on_each(partial(Tensor.to, device=self._context.device, non_blocking=True))

    def close(self) -> None:
        """End the thread; nothing is read after it."""
        self._thread.shutdown()

    def _read_after(self, state: StreamState) -> None:
        """Have the step after `state` read, unless an observation may change its length."""
        if self.stream.schedule.observes(state.counters):
            return
        with suppress(SettingError):  # of a pacing of the user's own, and of that step's time
            if step := self.stream.after(state):
                self._ahead = state, step, self._thread.submit(self._read, step)

    def _read(self, step: Step) -> StepInput:
        plan, full_length = step.plan, self.loader.full_length
        rows = row_range(plan, self._context.rank, self._context.world_size)
        batch, starts = self.loader.load(step.blocks, plan.length, rows), None
        if self._spread and plan.length < full_length:
            starts = row_starts(plan, step.number - 1, full_length)[rows.start : rows.stop]
        documents = documents_in(batch.inputs, self.separator, CPU, step.blocks, rows.start)
        found = StepInput(batch, (starts, documents))
        # Out of pinned memory a copy to a GPU waits for nothing that computes there.
        return found.on_each(Tensor.pin_memory) if self._context.device.type == "cuda" else found
