"""Length warmup in a plain PyTorch loop: ready batches, a token clock, and a log of the run.

course = Course(pacing=Linear(start=8, end=256, duration=1000), rows=64, budget=100_000_000)
feed, log = Feed(store.train, course), RunLog("runs/mine", course)
rates = course.rates(optimizer)
for step, parts in feed:
    losses = []
    for inputs, targets, length, share in parts:
        loss = share * mean_loss(inputs, targets)
        loss.backward()
        losses.append(loss.detach())
    grad_norm = clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    log.step(step, loss=float(sum(losses)), grad_norm=float(grad_norm), optimizer=optimizer)
    rates.step()
    optimizer.zero_grad()
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lengthen.core.ledger import State
from lengthen.data.loader import Tokens, share
from lengthen.data.stream import MicroBatch, Step, micro_batches
from lengthen.integrations.data_plan import Course, PlannedSteps
from lengthen.integrations.run_log import RunLog
from lengthen.util.errors import SettingError

__all__ = ["Course", "Feed", "MicroBatch", "RunLog", "Step"]


class Feed:
    """An iterable of steps with their ready batches; it can be saved and restored between them."""

    def __init__(
        self, tokens: Tokens, course: Course, *, passes: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        """Read from `tokens` (1-D uint16 or uint32), this rank's rows, cut into `passes` a step.

        The gradient of a step is the sum over passes and ranks of those of share * mean loss.
        Where ranks average gradients, as DistributedDataParallel does, scale by `world` too.
        Raises DataError where not one sequence fits, SettingError.
        """
        for name, value in (("passes", passes), ("world_size", world_size)):
            if value < 1:
                raise SettingError(name, "must be at least 1", value)
        if not 0 <= rank < world_size:
            raise SettingError("rank", f"must be from 0 to world - 1 ({world_size - 1})", rank)
        self.steps = PlannedSteps(tokens, course)
        self._passes, self._rank, self._world_size = passes, rank, world_size
        self._state = self.steps.stream.start

    def __iter__(self) -> Iterator[tuple[Step, tuple[MicroBatch, ...]]]:
        """Yield the steps that are left of the budget.

        A step counts as trained once it was yielded: save after its update, not before.
        """
        while step := self.steps.stream.after(self._state):
            self._state = step.after
            rows = share(range(step.plan.rows), self._rank, self._world_size)
            batch = self.steps.loader.load(step.blocks, step.plan.length, rows)
            yield step, tuple(micro_batches(batch, step.plan, self._passes))

    def state_dict(self) -> State:
        """Return where it stands, for JSON; the same on every rank, whatever the passes."""
        return {"course": self.steps.course.state(), **self._state.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; raises SettingError for another course or corpus."""
        self.steps.course.must_be(state["course"])
        self._state = self.steps.restored(state)
