"""What a training in another loop reads, step by step: lengths, rows, order, learning rate.

Only a pacing that the step alone decides: then every step of the run is known beforehand, the same
on every rank and in every worker, and a resume needs no more than its number.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lengthen.config.values import parse_count
from lengthen.core.custom_pacing import ByStep, Custom, settings_of
from lengthen.core.ledger import Leftovers, State
from lengthen.core.pacing import Adaptive, check_whole
from lengthen.core.schedule import Hold, RateSchedule, Schedule, spans
from lengthen.data.loader import Loader
from lengthen.data.stream import StepStream, StreamState
from lengthen.data.token_row import Tokens
from lengthen.util.errors import SettingError, nearest

COUNTS = (
    *("rows", "budget", "full_length", "reuse_after", "seed", "warmup_steps"),
    *("decay_tokens", "wsd_decay_tokens"),
)
OWN_STORE = "give the run its own back"
KEEPS = "a run keeps its plan but for the budget"
CHANGEABLE = ("budget",)  # on a resume: it cuts the last steps and moves none


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """The settings of length warmup in another loop.

    Raises SettingError, under the names of the settings in a file (`batch.rows` for `rows`).

    >>> pacing = lengthen.Linear(start=8, end=64, duration=10)
    >>> plan = lengthen.DataPlan(pacing=pacing, rows=16, budget=100_000)
    >>> plan.number_of_steps()
    103
    """

    pacing: ByStep
    rows: int  # B, at full length, of all ranks together
    budget: int  # trained tokens; "100M" is read as in a file, and so is every count here
    full_length: int | None = None  # L, tokens; the pacing's end where absent
    hold: Hold = "rows"
    leftovers: Leftovers = "requeue"
    reuse_after: int = 64  # R, steps
    seed: int = 0
    warmup_steps: int = 0  # W, of the learning rate
    decay_tokens: int | None = None  # at which the rate is at its minimum; the budget if absent
    min_learning_rate: float = 0.0  # as a share of the optimizer's own learning rate, the peak
    rate_schedule: RateSchedule = "cosine"  # "wsd", "linear" or "constant", as in a file
    wsd_decay_tokens: int | None = None  # of the fall of "wsd"; a tenth of decay_tokens if absent

    def __post_init__(self) -> None:
        for name in COUNTS:
            with suppress(ValueError):  # the checks below say what is wrong
                object.__setattr__(self, name, parse_count(getattr(self, name)))
        if not isinstance(self.pacing, ByStep | Adaptive):
            hint = f"one of {', '.join(kind.__name__ for kind in get_args(ByStep))}"
            raise SettingError("pacing", "must be a pacing", self.pacing, hint)
        if isinstance(self.pacing, Adaptive):
            hint = "an adaptive one needs our own trainer, which observes losses"
            raise SettingError("pacing.kind", "must be decided by the step", "adaptive", hint)
        if self.full_length is None and self.pacing.of == "rows":
            raise SettingError("full_length", "is missing; a pacing of rows does not give it")
        for setting, number, least in (
            ("model.length", self.length, 1),
            ("batch.rows", self.rows, 1),
            ("budget.tokens", self.budget, 1),
            ("batch.reuse_after", self.reuse_after, 1),
            ("run.seed", self.seed, 0),
            ("optimizer.warmup_steps", self.warmup_steps, 0),
            ("optimizer.decay_tokens", self.schedule.decay_tokens, 1),
            (
                "optimizer.wsd_decay_tokens",
                1 if self.wsd_decay_tokens is None else self.wsd_decay_tokens,
                1,
            ),
        ):
            check_whole(setting, number, least=least)
        for setting, word, kind in (
            ("batch.hold", self.hold, Hold),
            ("batch.leftovers", self.leftovers, Leftovers),
            ("optimizer.schedule", self.rate_schedule, RateSchedule),
        ):
            if word not in get_args(kind):
                raise SettingError(setting, "no such way", word, nearest(str(word), get_args(kind)))
        with suppress(ValueError, TypeError):  # numpy's would not go into JSON
            object.__setattr__(self, "min_learning_rate", float(self.min_learning_rate))
        if not (isinstance(self.min_learning_rate, float) and 0 <= self.min_learning_rate <= 1):
            rule = "must be from 0 to 1, a share of the optimizer's own"
            raise SettingError("min_learning_rate", rule, self.min_learning_rate)
        for setting, rule, value in self.schedule.mistakes():
            raise SettingError(setting, rule, value)

    @property
    def length(self) -> int:
        """The full length L, in tokens."""
        return self.pacing.end if self.full_length is None else self.full_length

    @cached_property
    def schedule(self) -> Schedule:
        """What decides rows, length and learning rate of every step; the peak is 1."""
        return Schedule(
            pacing=self.pacing,
            full_length=self.length,
            rows=self.rows,
            hold=self.hold,
            leftovers=self.leftovers,
            budget=self.budget,
            learning_rate=1.0,
            min_learning_rate=self.min_learning_rate,
            warmup_steps=self.warmup_steps,
            decay_tokens=self.budget if self.decay_tokens is None else self.decay_tokens,
            rate_schedule=self.rate_schedule,
            wsd_decay_tokens=self.wsd_decay_tokens,
        )

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the settings as a run's config.toml has them, without learning rate and model."""
        batch = ("rows", "hold", "leftovers", "reuse_after")
        return {
            "model": {"length": self.length},
            "pacing": settings_of(self.pacing),
            "batch": {name: getattr(self, name) for name in batch},
            "budget": {"tokens": self.budget},
            "run": {"seed": self.seed},
        }

    def state(self) -> State:
        """Return what a resumed run must agree with, for JSON."""
        decay = self.schedule.decay_tokens  # a run's rate does not bend when its budget grows
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        own |= {"pacing": settings_of(self.pacing), "full_length": self.length}
        own = json.loads(json.dumps({**own, "decay_tokens": decay}))  # tuples become lists
        return {name: value for name, value in own.items() if name not in CHANGEABLE}

    def check_state(self, saved: Mapping[str, Any]) -> None:
        """Raise SettingError unless `saved` is the state of this plan."""
        for name, value in self.state().items():
            if saved.get(name) != value:
                rule, hint = f"the checkpoint has {saved.get(name)!r}", KEEPS
                if name == "decay_tokens" and self.decay_tokens is None:
                    hint = f"give DataPlan(decay_tokens={saved.get(name)}), else it is the budget"
                raise SettingError(name, rule, value, hint)

    def number_of_steps(self) -> int:
        """Return how many steps the budget has."""
        return sum(span.steps for span in spans(self.schedule))

    def lr_scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """Return a scheduler that warms up in steps and follows `rate_schedule` in trained tokens.

        It scales the optimizer's own learning rates, and is stepped once after every update.
        """
        return PlannedRates(optimizer, learning_rates(self.schedule))


def learning_rates(schedule: Schedule) -> Callable[[int], float]:
    """Return step -> learning rate, steps counted from 0; that of the end beyond the budget.

    A function, as LambdaLR would save an object's state into checkpoints that torch then refuses to
    load.
    """
    parts = list(spans(schedule))

    def learning_rate(step: int) -> float:
        part = parts[bisect_right(parts, step, key=lambda part: part.counters.step) - 1]
        done = min(step - part.counters.step, part.steps)
        return schedule.learning_rate_at(schedule.after(part.counters, part.plan, done))

    return learning_rate


class PlannedRates(LambdaLR):
    """A scheduler that can be made and loaded before its optimizer is loaded, or after."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state, with its rates in the optimizer.

        torch's own leaves the optimizer alone, and to make a scheduler sets the rates of step 0:
        a scheduler that was made last would update once with those.
        """
        super().load_state_dict(state_dict)
        for group, rate in zip(self.optimizer.param_groups, self.get_last_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


class PlannedSteps:
    """The steps of a plan over a corpus, and its tokens."""

    def __init__(self, tokens: Tokens, plan: DataPlan) -> None:
        """Read from `tokens` (1-D).

        Raises DataError where not one sequence fits, SettingError for what is no plan.
        """
        if not isinstance(plan, DataPlan):
            raise SettingError("plan", "must be a DataPlan", plan)
        self.plan, self.loader = plan, Loader(tokens, plan.length, plan.seed)
        self.stream = StepStream(
            plan.schedule,
            self.loader.sequences,
            reuse_after=plan.reuse_after,
        )

    def state(self, at: StreamState) -> State:
        """Return, for JSON, where a run stands and what it must agree with when it resumes."""
        pacing, steps = self.plan.pacing, at.counters.step
        values = {"pacing_values": pacing.record(steps)} if isinstance(pacing, Custom) else {}
        return {"plan": self.plan.state(), **at.state(), **values}

    def restored(self, saved: Mapping[str, Any]) -> StreamState:
        """Return where the run of a saved state stood.

        Raises SettingError where it had another plan or corpus, CheckpointError for a damaged one.
        """
        self.plan.check_state(saved["plan"])
        state = StreamState.from_state(saved)
        if state.ledger.sequences != self.loader.sequences:
            rule = f"the checkpoint was trained on one of {state.ledger.sequences} sequences"
            raise SettingError("store", rule, self.loader.sequences, OWN_STORE)
        if isinstance(self.plan.pacing, Custom):
            self.plan.pacing.check_record(saved.get("pacing_values"), state.counters.step)
        return state


def check_store(saved: str, here: str) -> None:
    """Raise SettingError where a checkpoint's store is not the one that is given, both by id."""
    if saved != here:
        raise SettingError("store", f"the checkpoint was trained on {saved}", here, OWN_STORE)
