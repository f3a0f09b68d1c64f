"""What a search will cost, before its first trial: over every way in which its trials can end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lengthen.clock import spans
from lengthen.config import Config
from lengthen.settings import changed
from lengthen.tune.question import Question, looks_every
from lengthen.tune.search import FIRST, End, Known, Setting, Space, next_step
from lengthen.tune.trials import evaluation_flops, step_flops

Price = Callable[[Setting], float]
Outcome = Callable[[Setting], bool | None]  # was a trial calm? None: nobody has tried it


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
    looks = question.steps(setting) // looks_every(question.warmup)
    judging = evaluation_flops(config.model, looks * question.judged)
    return _training(config) + judging


def training_flops(question: Question, setting: Setting) -> float:
    """Return the operations of the whole training that a setting is chosen for."""
    return _training(whole_training(question, setting))


def whole_training(question: Question, setting: Setting) -> Config:
    """Return the training that a search is a share of, its budget in tokens.

    It has the rows and the rate that were asked about, whatever --aggressive finds.
    """
    plain = Setting(setting.start, setting.multiple)
    return changed(question.training(plain), {"budget": {"tokens": question.budget}})


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
    # Two ways that need the same trial next go on alike, so each trial is a node that is worked
    # out once: there are as many as settings, where the ways double with every start.
    found: dict[Setting, dict[Setting, Range]] = {}
    root = _next(space, {}, outcome)
    waiting = [root]
    while waiting:
        step, known = waiting[-1]
        if isinstance(step, End) or step in found:
            waiting.pop()
            continue
        after = [_next(space, {**known, step: is_calm}, outcome) for is_calm in (True, False)]
        ahead = [one for one in after if isinstance(one[0], Setting) and one[0] not in found]
        if ahead:
            waiting += ahead
            continue
        found[step] = {}
        for end, _ in after:
            for choice, spent in _ends(space, found, end).items():
                spent = spent + price(step)
                found[step][choice] = spent | found[step].get(choice, spent)
    return _ends(space, found, root[0])


def _ends(
    space: Space, found: Mapping[Setting, Mapping[Setting, Range]], step: Setting | End
) -> Mapping[Setting, Range]:
    if isinstance(step, Setting):
        return found[step]
    choice = chosen_or_likely(space, step)
    return {Setting(choice.start, choice.multiple): Range(0.0, 0.0)}


def _next(space: Space, known: Known, outcome: Outcome) -> tuple[Setting | End, Known]:
    """Return the next trial that nobody has done, or the end, and what is known by then."""
    known = dict(known)
    step = next_step(space, known)
    while isinstance(step, Setting) and (is_calm := outcome(step)) is not None:
        known[step] = is_calm
        step = next_step(space, known)
    return step, known
