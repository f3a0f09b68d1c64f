"""What a search costs: an estimate before its first trial, and what its trials came to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path

from lengthen.config.load import with_overrides
from lengthen.config.schema import Config
from lengthen.core.schedule import spans
from lengthen.experiments.tune.problem import Problem
from lengthen.experiments.tune.search import (
    FIRST,
    MOST_RATE,
    MULTIPLES,
    End,
    Setting,
    Space,
    next_step,
    race_from,
    raced,
)
from lengthen.experiments.tune.trials import TrialResult, Work, evaluation_flops, step_flops
from lengthen.planning.plan import Plan, plan
from lengthen.run.attempts import read_attempts
from lengthen.training.time_left import StepSeconds

Price = Callable[[Setting], float]  # FLOP of a setting's trial, whatever its rate


def trial_flops(problem: Problem, setting: Setting) -> float:
    """Return the operations of a trial that runs to its end, evaluations included."""
    config = problem.trial_config(setting)
    tokens = problem.evaluations(setting) * problem.evaluation_tokens(setting)
    return _training_flops(config) + evaluation_flops(config.model, tokens)


def training_flops(problem: Problem, setting: Setting) -> float:
    """Return the operations of the whole training that a setting is chosen for."""
    return _training_flops(whole_training(problem, setting))


def whole_training(problem: Problem, setting: Setting) -> Config:
    """Return the training that a search is a share of, its budget in tokens.

    It has the rows and the rate that were given, whatever --aggressive finds.
    """
    plain = Setting(setting.start, setting.multiple)
    return with_overrides(problem.training(plain), {"budget": {"tokens": problem.budget}})


def _training_flops(config: Config) -> float:
    parts = spans(config.schedule())
    return float(sum(one.steps * step_flops(config, one.rows, one.length) for one in parts))


@dataclass(frozen=True)
class Estimate:
    """What a whole search costs, as shares of the training that it chooses."""

    likely: float
    most: float


def estimate(problem: Problem) -> Estimate:
    """Estimate a search whose trials all run to their ends, one after another.

    Likely: the first start is calm but with the longest T, and wins its race. Most: the dearest
    start to choose, with every bisection and every race before it as long as they can be.
    """

    @cache
    def price(setting: Setting) -> float:
        return trial_flops(problem, setting)

    space = problem.space
    first, losses = space.ladder(space.starts[0]), dict[Setting, float]()
    while isinstance(step := next_step(space, losses), Setting):
        fails = step == first[-1] if not step.raced else step.start > space.starts[0]
        losses[step] = inf if fails else 0.0
    chosen = chosen_or_likely(space, step)
    return Estimate(
        sum(map(price, losses)) / training_flops(problem, chosen),
        max(
            spent / min(training_flops(problem, choice) for choice in space.ladder(start))
            for start, spent in most_by_start(space, price).items()
        ),
    )


def chosen_or_likely(space: Space, end: End) -> Setting:
    """Return what a search has chosen; where no trial was calm, the setting that stands for it."""
    return end.chosen or Setting(space.starts[-1], FIRST)


def most_by_start(space: Space, price: Price) -> Mapping[int, float]:
    """Return, for each start that can be the first calm one, the most that a search spends."""
    bounds: dict[int, float] = {}
    spent = price(space.ladder(space.starts[0])[-1])
    for start in space.starts:
        choices = space.ladder(start)
        spent += price(Setting(start, FIRST, opening=True)) + _bisection(choices, price)
        if start == space.starts[-1]:
            shorter = [Setting(start, multiple) for multiple in MULTIPLES if multiple < FIRST]
            spent += _bisection(shorter, price)
            choices += shorter
        bounds[start] = spent + max(_most_after(space, price, first) for first in choices)
    return bounds


def _bisection(rising: Sequence[Setting], price: Price) -> float:
    return len(rising).bit_length() * max(map(price, rising))


def _most_after(space: Space, price: Price, first: Setting) -> float:
    """Return the most that the race, what follows it and --aggressive spend after `first`."""
    entries = race_from(space, first)
    races = sum(price(raced(entry)) for entry in entries) if len(entries) > 1 else 0.0
    again = sum(_bisection(space.ladder(winner.start), price) for winner in entries[1:])
    ends = [first, *(end for winner in entries[1:] for end in space.ladder(winner.start))]
    return races + again + max(_most_bolder(space, price, end) for end in ends)


def _most_bolder(space: Space, price: Price, chosen: Setting) -> float:
    if not space.aggressive:
        return 0.0
    spent, wider = (MOST_RATE.bit_length() - 1) * price(chosen), chosen
    while more := space.with_more_rows(wider):
        spent, wider = spent + price(more), more
    return spent


@dataclass(frozen=True)
class SearchCost:
    """The trials together, evaluation included, beside the one training that they are for."""

    trials: int
    work: Work
    other_seconds: float  # to start, save and watch processes, and of what a kill lost
    repeated_tokens: int  # trained twice, after a kill; not in `work`
    training: Plan
    training_seconds: float | None  # as the trials' steps say; None: all of them were alike

    @property
    def seconds(self) -> float:
        """Seconds that the processes of the trials took, all together."""
        return self.work.seconds + self.other_seconds

    @property
    def token_share(self) -> float:
        """Of the whole training's tokens, which have no evaluation in them."""
        return self.work.tokens / self.training.tokens

    @property
    def flop_share(self) -> float:
        """Of the whole training's operations."""
        return self.work.flops / self.training.flops

    @property
    def second_share(self) -> float | None:
        """Of the whole training's seconds."""
        return None if self.training_seconds is None else self.seconds / self.training_seconds


def search_cost(
    problem: Problem, results: Sequence[TrialResult], setting: Setting, root: Path
) -> SearchCost:
    """Add the trials up, beside the whole training with `setting`."""
    names = {result.trial.name for result in results}
    attempts = [record for run, record in read_attempts(root) if run in names]
    other_seconds = sum(record.get("beside_seconds", 0.0) for record in attempts)
    work = sum((result.work for result in results), Work())
    config = whole_training(problem, setting)
    training, seconds = plan(config, config.model.length), None
    # Of one length alone, what a step takes beside its arithmetic would grow with the length.
    if len({(step.rows, step.length) for one in results for step in one.metrics.steps}) > 1:
        each, per_flop = _step_seconds(results).fit()
        seconds = training.steps * each + per_flop * training.flops
    return SearchCost(
        trials=len(results),
        work=work,
        other_seconds=other_seconds,
        repeated_tokens=sum(record.get("repeated_tokens", 0) for record in attempts),
        training=training,
        training_seconds=seconds,
    )


def _step_seconds(results: Iterable[TrialResult]) -> StepSeconds:
    """Return what the steps of trials took.

    A short step takes longer than its operations say, so the speed at a short length is not that at
    a longer one, which no trial has come to.
    """
    took = StepSeconds()
    for result in results:
        before = 0.0
        for step in result.metrics.steps:
            flops = step_flops(result.trial.config, step.rows or 0, step.length or 0)
            took.take(flops, (step.seconds or 0.0) - before)
            before = step.seconds or 0.0
    return took
