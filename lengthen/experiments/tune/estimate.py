"""What a search will cost, before its first trial: over every way in which its trials can end."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from lengthen.config.load import with_overrides
from lengthen.config.schema import Config
from lengthen.core.schedule import spans
from lengthen.experiments.tune.problem import Question
from lengthen.experiments.tune.search import (
    FIRST,
    End,
    Known,
    Setting,
    Space,
    next_step,
    supposable,
)
from lengthen.experiments.tune.trials import evaluation_flops, step_flops

Price = Callable[[Setting], float]
Outcome = Callable[[Setting], float | None]  # loss as in Known; None: nobody has tried it


@dataclass(frozen=True)
class Range:
    """The least and the most that something can be."""

    least: float
    most: float

    def __add__(self, more: float) -> "Range":
        return Range(self.least + more, self.most + more)

    def __truediv__(self, by: float) -> "Range":
        return Range(self.least / by, self.most / by)

    def __or__(self, other: "Range") -> "Range":
        return Range(min(self.least, other.least), max(self.most, other.most))


def trial_flops(question: Question, setting: Setting) -> float:
    """Return the operations of a trial that runs to its end, evaluations included."""
    config = question.beginning(setting)
    read = question.looks(setting) * question.read(setting)
    judging = evaluation_flops(config.model, read)
    return _training(config) + judging


def training_flops(question: Question, setting: Setting) -> float:
    """Return the operations of the whole training that a setting is chosen for."""
    return _training(whole_training(question, setting))


def whole_training(question: Question, setting: Setting) -> Config:
    """Return the training that a search is a share of, its budget in tokens.

    It has the rows and the rate that were asked about, whatever --aggressive finds.
    """
    plain = Setting(setting.start, setting.multiple)
    return with_overrides(question.training(plain), {"budget": {"tokens": question.budget}})


def chosen_or_likely(space: Space, end: End) -> Setting:
    """Return what a search has chosen; where no trial was calm, the setting that stands for it."""
    return end.chosen or Setting(space.starts[-1], FIRST)


def _training(config: Config) -> float:
    parts = spans(config.schedule())
    return float(sum(one.steps * step_flops(config, one.rows, one.length) for one in parts))


def foretold(question: Question, outcome: Outcome = lambda _: None) -> Range:
    """Return what the rest of a search costs, as a share of the training that it chooses.

    Every trial runs to its end, one after another. What `outcome` knows costs nothing more.
    """
    prices: dict[Setting, float] = {}

    def price(setting: Setting) -> float:
        # Arithmetic does not ask for the rate.
        plain = replace(setting, rate=1)
        if plain not in prices:
            prices[plain] = trial_flops(question, plain)
        return prices[plain]

    ends = ways(question.space, price, outcome)
    first, *others = (spent / training_flops(question, end) for end, spent in ends.items())
    for other in others:
        first |= other
    return first


def ways(space: Space, price: Price, outcome: Outcome) -> Mapping[Setting, Range]:
    """Return for each choice of a search what the ways to it cost, its rate and rows aside."""
    # Ways with the same line go on alike and are worked out once: there are some lines for each
    # setting, where the ways double with every start.
    found: dict[_Line, Mapping[Setting, Range]] = {}

    def ends(way: _Way) -> Mapping[Setting, Range] | None:
        if isinstance(way.step, End):
            choice = chosen_or_likely(space, way.step)
            return {Setting(choice.start, choice.multiple): Range(0.0, 0.0)}
        return found.get(way.line)

    root = _next(space, outcome, {})
    waiting = [root]
    while waiting:
        way = waiting[-1]
        if ends(way) is not None:
            waiting.pop()
            continue
        assert isinstance(way.step, Setting)
        ahead = [one for one in way.after if ends(one) is None]
        if ahead:
            waiting += ahead
            continue
        behind = chain.from_iterable((ends(one) or {}).items() for one in way.after)
        found[way.line] = _joined(behind, price(way.step))
    reached = ends(root)
    assert reached is not None
    return reached


_Line = tuple[Setting | End, ...]


@dataclass(frozen=True, eq=False)
class _Way:
    """A search that has come so far."""

    space: Space
    outcome: Outcome
    known: Known
    step: Setting | End  # what is next

    @cached_property
    def after(self) -> list["_Way"]:
        """Where it is when its next trial has ended: well, and then not calm."""
        step = self.step
        assert isinstance(step, Setting)
        rivals = (self.outcome(replace(step, start=start)) for start in self.space.starts)
        there = [loss for loss in rivals if loss is not None] if step.raced else []
        losses = supposable(self.known, there)
        return [_next(self.space, self.outcome, {**self.known, step: loss}) for loss in losses]

    @cached_property
    def line(self) -> _Line:
        """What will be tried if every trial fails: to the end, or until another start's turn.

        From there on it does not matter how the search has come there.
        """
        if isinstance(self.step, End):
            return (self.step,)
        failed = self.after[-1]
        if isinstance(failed.step, Setting) and failed.step.opening:
            return (self.step, failed.step)
        return (self.step, *failed.line)


def _next(space: Space, outcome: Outcome, known: Known) -> _Way:
    """Go on over what has been tried, to the next trial that nobody has done or the end."""
    known = dict(known)
    step = next_step(space, known)
    while isinstance(step, Setting) and (loss := outcome(step)) is not None:
        known[step] = loss
        step = next_step(space, known)
    return _Way(space, outcome, known, step)


def _joined(behind: Iterable[tuple[Setting, Range]], spent: float) -> Mapping[Setting, Range]:
    """Return what each choice costs by all the ways to it, and what came before them."""
    found: dict[Setting, Range] = {}
    for choice, cost in behind:
        found[choice] = cost + spent | found.get(choice, cost + spent)
    return found
