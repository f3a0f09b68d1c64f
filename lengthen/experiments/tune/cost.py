"""What a search costs: an estimate before its first trial, and what its trials came to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from statistics import LinearRegression, linear_regression

from lengthen.config.load import with_overrides
from lengthen.config.schema import Config
from lengthen.core.schedule import spans
from lengthen.experiments.runner import read_attempts
from lengthen.experiments.tune.problem import Problem
from lengthen.experiments.tune.search import (
    FIRST,
    End,
    Losses,
    Setting,
    Space,
    next_step,
    possible_losses,
)
from lengthen.experiments.tune.trials import TrialResult, Work, evaluation_flops, step_flops
from lengthen.planning.plan import Plan, plan

KnownLoss = Callable[[Setting], float | None]  # loss as in Losses; None: nobody has tried it


@dataclass(frozen=True)
class Range:
    """The least and the most that something can be."""

    least: float
    most: float

    def or_after(self, spent: float, other: "Range") -> "Range":
        """Return the range of this and of `other` with so much spent before."""
        return Range(min(self.least, other.least + spent), max(self.most, other.most + spent))


NOTHING = Range(inf, -inf)


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


def estimate(problem: Problem, known: KnownLoss = lambda _: None) -> Range:
    """Return what the rest of a search costs, as a share of the training that it chooses.

    Over every way in which its trials can end. Every trial runs to its end, one after another. What
    `known` gives a loss of costs nothing more.
    """
    prices: dict[Setting, float] = {}

    def price(setting: Setting) -> float:
        # Arithmetic does not ask for the rate.
        plain = replace(setting, rate=1)
        if plain not in prices:
            prices[plain] = trial_flops(problem, plain)
        return prices[plain]

    ends = ways(problem.space, price, known)
    shares = [(spent, training_flops(problem, end)) for end, spent in ends.items()]
    return Range(
        min(spent.least / training for spent, training in shares),
        max(spent.most / training for spent, training in shares),
    )


def chosen_or_likely(space: Space, end: End) -> Setting:
    """Return what a search has chosen; where no trial was calm, the setting that stands for it."""
    return end.chosen or Setting(space.starts[-1], FIRST)


def ways(
    space: Space, price: Callable[[Setting], float], known: KnownLoss
) -> Mapping[Setting, Range]:
    """Return for each choice of a search what the ways to it cost, its rate and rows aside."""
    costs: dict[tuple[Setting | End, ...], Mapping[Setting, Range]] = {}

    def costs_from(losses: Losses) -> Mapping[Setting, Range]:
        losses, step = _next_unknown(space, known, losses)
        if isinstance(step, End):
            choice = chosen_or_likely(space, step)
            return {Setting(choice.start, choice.multiple): Range(0.0, 0.0)}
        # Ways with the same line continue alike and are worked out once: there are some lines for
        # each setting, where the ways double with every start.
        line = _line(space, known, losses, step)
        if line not in costs:
            rivals = (known(replace(step, start=start)) for start in space.starts)
            there = [loss for loss in rivals if loss is not None] if step.raced else []
            joined: dict[Setting, Range] = {}
            for loss in possible_losses(losses, there):
                for choice, cost in costs_from({**losses, step: loss}).items():
                    joined[choice] = joined.get(choice, NOTHING).or_after(price(step), cost)
            costs[line] = joined
        return costs[line]

    return costs_from({})


def _next_unknown(space: Space, known: KnownLoss, losses: Losses) -> tuple[Losses, Setting | End]:
    """Continue over what has been tried, to the next trial that nobody has done or the end."""
    losses = dict(losses)
    step = next_step(space, losses)
    while isinstance(step, Setting) and (loss := known(step)) is not None:
        losses[step] = loss
        step = next_step(space, losses)
    return losses, step


def _line(
    space: Space, known: KnownLoss, losses: Losses, step: Setting
) -> tuple[Setting | End, ...]:
    """Return what will be tried if every trial fails: to the end, or until another start's turn.

    From there on it does not matter how the search has come there.
    """
    line: list[Setting | End] = [step]
    while isinstance(last := line[-1], Setting) and (last is step or not last.opening):
        losses, following = _next_unknown(space, known, {**losses, last: inf})
        line.append(following)
    return tuple(line)


@dataclass(frozen=True)
class Overhead:
    """What the trials' own logs cannot show."""

    repeated: Work = field(default_factory=Work)  # computed before a kill, and then once more
    seconds: float = 0.0  # of starting, saving and watching processes


@dataclass(frozen=True)
class SearchCost:
    """The trials together, evaluation included, beside the one training that they are for."""

    trials: int
    work: Work  # all that was computed, what was computed again included
    overhead: Overhead
    training: Plan
    training_seconds: float | None  # as the seconds of the trials' steps say; None before any

    @property
    def seconds(self) -> float:
        """Seconds that the processes of the trials took, all together."""
        return self.work.seconds + self.overhead.seconds

    @property
    def token_share(self) -> float:
        """Of the whole training's trained tokens."""
        return self.work.tokens / self.training.tokens

    @property
    def flop_share(self) -> float:
        """Of the whole training's operations, which have no evaluation in them."""
        return self.work.flops / self.training.flops

    @property
    def second_share(self) -> float | None:
        """Of the whole training's seconds."""
        return None if self.training_seconds is None else self.seconds / self.training_seconds


def search_cost(
    problem: Problem, results: Sequence[TrialResult], setting: Setting, root: Path
) -> SearchCost:
    """Add the trials up, beside the whole training with `setting`."""
    overhead = _read_overhead(root, {result.trial.name for result in results})
    config = whole_training(problem, setting)
    line = _line_through_steps(results)
    seconds = None
    if line:
        seconds = sum(
            span.steps * (line.slope * step_flops(config, span.rows, span.length) + line.intercept)
            for span in spans(config.schedule())
        )
    return SearchCost(
        trials=len(results),
        work=sum((result.work for result in results), overhead.repeated),
        overhead=overhead,
        training=plan(config, config.model.length),
        training_seconds=seconds,
    )


def _read_overhead(root: Path, names: set[str]) -> Overhead:
    """Read what attempts.jsonl says of these trials; of a process that was killed it says less."""
    works: list[Work] = []
    seconds = 0.0
    for run, record in read_attempts(root):
        if run not in names:
            continue
        if record.get("event") == "started":
            works.append(Work(**record.get("redone", {})))
        elif record.get("event") == "busy":
            works.pop()  # another process had it: that attempt has computed nothing again
        seconds += record.get("beside_seconds", 0.0)
    return Overhead(sum(works, Work()), seconds)


def _line_through_steps(results: Iterable[TrialResult]) -> LinearRegression | None:
    """Fit the seconds of a step to its operations; None before any step.

        seconds = slope * operations + intercept

    A short step takes longer than its operations say, so the speed at a short length is not that at
    a longer one, which no trial has come to.
    """
    flops: list[int] = []
    seconds: list[float] = []
    for result in results:
        before = 0.0
        for step in result.metrics.steps:
            flops.append(step_flops(result.trial.config, step.rows or 0, step.length or 0))
            seconds.append((step.seconds or 0.0) - before)
            before = step.seconds or 0.0
    if not flops:
        return None
    if len(set(flops)) > 1:
        line = linear_regression(flops, seconds)
        if line.slope >= 0 and line.intercept >= 0:
            return line
    return linear_regression([0, *flops], [0.0, *seconds], proportional=True)
