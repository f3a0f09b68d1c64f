"""The steps of a run over a corpus: plan, blocks of the ledger, rows of a rank; no torch.

The trainer, the plan of a run and every integration take their steps from here, and `loader` reads
the tokens of one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lengthen.core.ledger import Block, Ledger, State, joined_tokens, reuse_spacing
from lengthen.core.schedule import Counters, Schedule, StepPlan


@dataclass(frozen=True)
class StreamState:
    """Where a run stands between two steps."""

    counters: Counters
    ledger: Ledger

    def state(self) -> State:
        """Return it as JSON has it."""
        return {"counters": asdict(self.counters), "ledger": self.ledger.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "StreamState":
        """Return what `state` was made of, without an adaptive pacing.

        Raises CheckpointError for a damaged ledger.
        """
        return cls(Counters(**state["counters"]), Ledger.from_state(state["ledger"]))


@dataclass(frozen=True)
class Step:
    """One step: its plan, what it reads, and where the run stands after it."""

    plan: StepPlan
    blocks: tuple[Block, ...]  # positions of the corpus, alike on every rank
    after: StreamState

    @property
    def number(self) -> int:
        """Finished steps, this one included."""
        return self.after.counters.step

    @property
    def tokens(self) -> int:
        """Trained tokens, this step's included."""
        return self.after.counters.tokens

    @property
    def joined(self) -> float:
        """The share of its tokens that lie in rows of more than one piece."""
        return joined_tokens(self.blocks, self.plan.length) / self.plan.tokens


class StepStream:
    """Every step of a schedule over a corpus of N sequences. It has no state of its own."""

    def __init__(self, schedule: Schedule, sequences: int, *, reuse_after: int) -> None:
        """Begin a corpus of `sequences` (N); raises SettingError for a number out of its range."""
        ledger = Ledger.start(
            sequences=sequences,
            full_length=schedule.full_length,
            reuse_after=reuse_spacing(reuse_after, schedule.most_rows, sequences),
            leftovers=schedule.leftovers,
        )
        self.schedule, self.start = schedule, StreamState(Counters(), ledger)

    def after(self, state: StreamState) -> Step | None:
        """Return the step that follows `state`; None where the budget is spent."""
        plan = self.schedule.step_plan(state.counters)
        return None if plan is None else self.planned(plan, state)

    def planned(self, plan: StepPlan, state: StreamState) -> Step:
        """Return the step that trains by `plan` after `state`."""
        blocks, ledger = state.ledger.take(plan.rows, plan.length)
        return Step(plan, blocks, StreamState(self.schedule.after(state.counters, plan), ledger))


class StepCursor:
    """Steps by their number: the next one costs one `take`, an earlier one begins at the start."""

    def __init__(self, stream: StepStream, start: StreamState) -> None:
        self._stream, self._start = stream, start
        self._step: Step | None = None

    def at(self, number: int) -> Step:
        """Return step `number`, counted from 1; it follows the start and lies in the budget."""
        step = self._step if self._step and self._step.number <= number else None
        while step is None or step.number < number:
            step = self._stream.after(step.after if step else self._start)
            assert step is not None, f"step {number} lies beyond the budget"
        self._step = step
        return step


def ledgers(ledger: Ledger, plan: StepPlan, steps: int) -> Iterator[Ledger]:
    """Yield the ledger after each of so many steps with one plan.

    Only the last one where no sequence waits for another step: whole epochs are skipped then.
    """
    if plan.length == ledger.full_length or ledger.leftovers != "requeue":
        yield ledger.after(plan.rows, plan.length, steps)
        return
    for _ in range(steps):
        _, ledger = ledger.take(plan.rows, plan.length)
        yield ledger


def accumulation_steps(rows: int, world_size: int, length: int, micro_tokens: int) -> int:
    """Return in how many micro-batches every rank trains its share of a step.

    None is above `micro_tokens` tokens, which must be at least `length`; a short step takes few
    micro-batches of many rows, not many of few.
    """
    most_rows = -(-rows // world_size)  # of a rank
    return -(-most_rows // (micro_tokens // length))


def row_range(plan: StepPlan, rank: int, world_size: int, number: int = 0, count: int = 1) -> range:
    """Return the rows of micro-batch `number` of `count` of a rank; of the rank, where it has one.

    All micro-batches of all ranks differ by one row at most: laid end to end they are the step.
    """
    part, parts = rank * count + number, world_size * count
    return range(plan.rows * part // parts, plan.rows * (part + 1) // parts)
