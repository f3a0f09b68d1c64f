"""What a training in somebody else's loop reads, step by step: lengths, rows, order, rate.

Only a pacing that the step alone decides: then every step of the run is known beforehand, the same
on every rank and in every worker, and a resume needs no more than its number.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lengthen.config.load import build
from lengthen.config.schema import Tables
from lengthen.core.ledger import Block, Ledger, Leftovers, State, joined_tokens, reuse_spacing
from lengthen.core.pacing import Adaptive, Fixed
from lengthen.core.schedule import Counters, Hold, Schedule, StepPlan, spans
from lengthen.data.loader import Loader, Tokens
from lengthen.util.errors import SettingError

CHANGEABLE = ("budget",)  # on a resume: it cuts the last steps and moves none


@dataclass(frozen=True, kw_only=True)
class Course:
    """The settings of the core; rates are shares of a peak, which is the optimizer's own rate.

    Raises SettingError, under the names of the settings in a file (`batch.rows` for `rows`).
    """

    pacing: Fixed
    rows: int  # B, at full length, of all ranks together
    budget: int  # trained tokens
    full_length: int | None = None  # L, tokens; the pacing's end where absent
    hold: Hold = "rows"
    leftovers: Leftovers = "requeue"
    reuse_after: int = 64  # R, steps
    seed: int = 0
    warmup_steps: int = 0  # W, of the rate
    decay_tokens: int | None = None  # at which the rate arrives at its floor; the budget if absent
    floor: float = 0.0  # share of the peak

    def __post_init__(self) -> None:
        if isinstance(self.pacing, Adaptive):
            hint = "an adaptive one needs our own trainer, which observes losses"
            raise SettingError("pacing.kind", "must be decided by the step", "adaptive", hint)
        if self.full_length is None and self.pacing.of == "rows":
            raise SettingError("full_length", "is missing; a pacing of rows does not say it")
        if not 0 <= self.floor <= 1:
            raise SettingError("floor", "must be from 0 to 1, a share of the peak", self.floor)
        # Now, not at the first use: a mistake belongs to the line that made it.
        _ = self.schedule

    @property
    def length(self) -> int:
        """The full length L, in tokens."""
        return self.pacing.end if self.full_length is None else self.full_length

    @cached_property
    def schedule(self) -> Schedule:
        """What decides the shape and the rate of every step, peak 1; checked as a file's is."""
        rate: Tables = {"learning_rate": 1.0, "min_learning_rate": self.floor}
        rate |= {"warmup_steps": self.warmup_steps, "decay_tokens": self.decay_tokens}
        tables = self.tables()
        # A configuration has a model of ours; this one only carries the full length.
        model = {**tables["model"], "layers": 1, "width": 1, "heads": 1}
        return build({**tables, "model": model, "optimizer": rate}).schedule()

    def tables(self) -> Tables:
        """Return the settings as a run's config.toml has them, without rate and model."""
        batch = ("rows", "hold", "leftovers", "reuse_after")
        return {
            "model": {"length": self.length},
            "pacing": asdict(self.pacing),
            "batch": {name: getattr(self, name) for name in batch},
            "budget": {"tokens": self.budget},
            "run": {"seed": self.seed},
        }

    def state(self) -> State:
        """Return what a resumed run must agree with, for JSON."""
        decay = self.schedule.decay_tokens  # a run's rate does not bend when its budget grows
        own: State = {**asdict(self), "full_length": self.length, "decay_tokens": decay}
        own = json.loads(json.dumps(own))  # tuples become lists, as in a file
        return {name: value for name, value in own.items() if name not in CHANGEABLE}

    def must_be(self, saved: Mapping[str, Any]) -> None:
        """Raise SettingError unless `saved` is the state of this course."""
        for name, value in self.state().items():
            if saved.get(name) != value:
                rule = f"the checkpoint has {saved.get(name)!r}"
                raise SettingError(name, rule, value, "a run keeps its course but for the budget")

    def number_of_steps(self) -> int:
        """Return how many steps the budget has."""
        return sum(span.steps for span in spans(self.schedule))

    def rates(self, optimizer: Optimizer) -> LambdaLR:
        """Return a scheduler that follows the token clock: warm-up in steps, cosine in tokens.

        It scales the optimizer's own rates, and is stepped once after every update.
        """
        return LambdaLR(optimizer, factors(self.schedule))


def factors(schedule: Schedule) -> Callable[[int], float]:
    """Return step -> rate as a share of the peak, steps counted from 0; beyond the budget, its end.

    A function, as LambdaLR would save an object's state into checkpoints that torch then refuses to
    load.
    """
    parts = list(spans(schedule))

    def factor(step: int) -> float:
        part = parts[bisect_right(parts, step, key=lambda part: part.counters.step) - 1]
        done = min(step - part.counters.step, part.steps)
        return schedule.learning_rate_at(schedule.after(part.counters, part.plan, done))

    return factor


@dataclass(frozen=True)
class Moment:
    """How far a run is, between two steps."""

    counters: Counters
    ledger: Ledger

    def state(self) -> State:
        """Return it as JSON has it."""
        return {"counters": asdict(self.counters), "ledger": self.ledger.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Moment":
        """Return what `state` was made of; raises CheckpointError for a damaged ledger."""
        return cls(Counters(**state["counters"]), Ledger.from_state(state["ledger"]))


@dataclass(frozen=True)
class Step:
    """One step, in positions of the corpus, and how the run stands after it."""

    plan: StepPlan
    blocks: tuple[Block, ...]
    after: Moment

    @property
    def number(self) -> int:
        """Finished steps, this one included."""
        return self.after.counters.step

    @property
    def tokens(self) -> int:
        """Trained tokens, this step's included."""
        return self.after.counters.tokens

    @property
    def factor(self) -> float:
        """The learning rate of its update, as a share of the peak."""
        return self.plan.learning_rate

    @property
    def joined(self) -> float:
        """The share of its tokens that lie in rows of more than one piece."""
        return joined_tokens(self.blocks, self.plan.length) / self.plan.tokens


class Part(NamedTuple):
    """What one forward and backward pass trains on; at least one row, on the CPU."""

    inputs: Tensor  # (rows, length) int64
    targets: Tensor  # (rows, length) int64: the token that follows each input in the store
    length: int  # tokens
    share: float  # of the step's tokens; 0 where there were too few rows, and a blank one stands in


class Steps:
    """Every step of a course over a corpus, and its tokens."""

    def __init__(self, tokens: Tokens, course: Course) -> None:
        """Read from `tokens` (1-D); raises DataError where not one sequence fits."""
        self.course, self.schedule = course, course.schedule
        self.loader = Loader(tokens, course.length, course.seed)
        sequences = self.loader.sequences
        ledger = Ledger.start(
            sequences=sequences,
            full_length=course.length,
            reuse_after=reuse_spacing(course.reuse_after, self.schedule.most_rows, sequences),
            leftovers=course.leftovers,
        )
        self.start = Moment(Counters(), ledger)

    def following(self, moment: Moment) -> Step | None:
        """Return the step that follows `moment`; None where the budget is spent."""
        plan = self.schedule.step_plan(moment.counters)
        if plan is None:
            return None
        blocks, ledger = moment.ledger.take(plan.rows, plan.length)
        return Step(plan, blocks, Moment(self.schedule.after(moment.counters, plan), ledger))

    def part(self, step: Step, number: int, parts: int) -> Part:
        """Return part `number` of a step that is cut into `parts` of nearly equal rows."""
        rows, length = step.plan.rows, step.plan.length
        batch = self.loader.load(step.blocks, rows, length, rank=number, world_size=parts)
        if not len(batch.inputs):
            # Every rank needs as many passes as its peers, or they wait for it for ever.
            blank = torch.zeros((1, length), dtype=torch.int64)
            return Part(blank, blank, length, 0.0)
        return Part(*batch, length, len(batch.inputs) / rows)

    def restored(self, saved: Mapping[str, Any]) -> Moment:
        """Return the moment of a saved state; raises SettingError where it is another corpus's."""
        moment = Moment.from_state(saved)
        found, own = moment.ledger.sequences, self.start.ledger.sequences
        if found != own:
            rule = f"the checkpoint was trained on one of {found} sequences"
            raise SettingError("store", rule, own, "give the run its own store back")
        return moment


class Walk:
    """Steps by number; going on to the next costs one `take`, going back begins at the start."""

    def __init__(self, source: Steps, start: Moment) -> None:
        self._source, self._start = source, start
        self._step = self._begin()

    def _begin(self) -> Step:
        return Step(StepPlan(0, 0, 0.0), (), self._start)

    def at(self, number: int) -> Step:
        """Return step `number`, counted from 1, which lies behind the start and in the budget."""
        if number < self._step.number:
            self._step = self._begin()
        while self._step.number < number:
            step = self._source.following(self._step.after)
            assert step is not None
            self._step = step
        return self._step
