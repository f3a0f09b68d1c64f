"""Length warmup in a plain PyTorch loop: ready batches, learning rates by tokens, and a log.

The loop stands in docs/integrations.md and in examples/plain_loop.py.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lengthen.core.ledger import State
from lengthen.core.pacing import check_whole
from lengthen.data.loader import MicroBatch, micro_batches
from lengthen.data.stream import Step, row_range
from lengthen.data.token_row import Tokens
from lengthen.integrations.data_plan import DataPlan, PlannedSteps
from lengthen.integrations.run_log import RunLog

__all__ = ["BatchStream", "DataPlan", "MicroBatch", "RunLog", "Step"]


class BatchStream:
    """An iterable of steps with their micro-batches; it is saved and restored between two steps.

    >>> pacing = lengthen.Linear(start=8, end=64, duration=10)
    >>> plan = lengthen.DataPlan(pacing=pacing, rows=16, budget=100_000)
    >>> stream = lengthen.BatchStream(lengthen.Store.open("store").train, plan)
    >>> for step, micro_batches in stream:
    ...     for inputs, targets, length, share in micro_batches:
    ...         pass  # loss = share * mean_loss(inputs, targets); loss.backward()
    >>> step.number, inputs.shape, share
    (103, torch.Size([16, 64]), 1.0)
    """

    def __init__(
        self,
        tokens: Tokens,
        plan: DataPlan,
        *,
        gradient_accumulation_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Read this rank's rows from `tokens` (1-D uint16 or uint32), cut into micro-batches.

        The gradient of a step is the sum over micro-batches and ranks of those of share * mean
        loss. Where ranks average gradients, as DistributedDataParallel does, scale by `world_size`
        too. Raises DataError where not one sequence fits, SettingError.
        """
        check_whole("gradient_accumulation_steps", gradient_accumulation_steps)
        check_whole("world_size", world_size)
        check_whole("rank", rank, least=0, most=world_size - 1)
        self._steps = PlannedSteps(tokens, plan)
        self._count, self._rank, self._world_size = gradient_accumulation_steps, rank, world_size
        self._state = self._steps.stream.start

    def __iter__(self) -> Iterator[tuple[Step, tuple[MicroBatch, ...]]]:
        """Yield the steps that are left of the budget.

        A step counts as trained once it was yielded: save after its update, not before.
        """
        rank, world_size = self._rank, self._world_size
        while step := self._steps.stream.after(self._state):
            plan = step.plan
            rows = row_range(plan, rank, world_size)
            batch = self._steps.loader.load(step.blocks, plan.length, rows)
            parts = tuple(micro_batches(batch, plan, rank, world_size, self._count))
            self._state = step.after  # only now: what could not be read comes again
            yield step, parts

    def state_dict(self) -> State:
        """Return where it stands, for JSON; the same on every rank, however a step is cut."""
        return self._steps.state(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; raises SettingError for another plan or corpus."""
        self._state = self._steps.restored(state)
