"""What a training in somebody else's loop reads, step by step: lengths, rows, order, rate.

Only a pacing that the step alone decides: then every step of the run is known beforehand, the same
on every rank and in every worker, and a resume needs no more than its number.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lengthen.config.load import build
from lengthen.config.schema import Tables
from lengthen.core.ledger import Leftovers, State
from lengthen.core.pacing import Adaptive, Fixed
from lengthen.core.schedule import Hold, Schedule, spans
from lengthen.data.loader import Loader, Tokens
from lengthen.data.stream import StepStream, StreamState
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


class PlannedSteps:
    """Every step of a course over a corpus, and its tokens."""

    def __init__(self, tokens: Tokens, course: Course) -> None:
        """Read from `tokens` (1-D); raises DataError where not one sequence fits."""
        self.course = course
        self.loader = Loader(tokens, course.length, course.seed)
        self.stream = StepStream(
            course.schedule,
            self.loader.sequences,
            leftovers=course.leftovers,
            reuse_after=course.reuse_after,
        )

    def restored(self, saved: Mapping[str, Any]) -> StreamState:
        """Return a saved state; raises SettingError where it is another corpus's."""
        state = StreamState.from_state(saved)
        found, own = state.ledger.sequences, self.loader.sequences
        if found != own:
            rule = f"the checkpoint was trained on one of {found} sequences"
            raise SettingError("store", rule, own, "give the run its own store back")
        return state
