"""What a search has cost, and what share of the whole training that is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import LinearRegression, linear_regression

from lengthen.core.schedule import spans
from lengthen.experiments.runner import attempted
from lengthen.experiments.tune.estimate import whole_training
from lengthen.experiments.tune.problem import Question
from lengthen.experiments.tune.search import Setting
from lengthen.experiments.tune.trials import Seen, Work, step_flops
from lengthen.planning.plan import Plan, plan


@dataclass(frozen=True)
class Beside:
    """What the trials' own logs cannot show."""

    redone: Work = field(default_factory=Work)  # computed before a kill, and then once more
    seconds: float = 0.0  # of starting, saving and watching processes


@dataclass(frozen=True)
class Bill:
    """The trials together, evaluation included, beside the one training that they are for."""

    trials: int
    work: Work  # all that was computed, what was computed again included
    beside: Beside
    training: Plan
    training_seconds: float | None  # as the seconds of the trials' steps say; None before any

    @property
    def tokens(self) -> int:
        """Trained tokens."""
        return self.work.tokens

    @property
    def flops(self) -> float:
        """Operations of training and evaluating."""
        return self.work.flops

    @property
    def seconds(self) -> float:
        """Seconds that the processes of the trials took, all together."""
        return self.work.seconds + self.beside.seconds

    @property
    def token_share(self) -> float:
        """Of the whole training's trained tokens."""
        return self.tokens / self.training.tokens

    @property
    def flop_share(self) -> float:
        """Of the whole training's operations, which have no evaluation in them."""
        return self.flops / self.training.flops

    @property
    def second_share(self) -> float | None:
        """Of the whole training's seconds."""
        return None if self.training_seconds is None else self.seconds / self.training_seconds


def read_beside(root: Path, seen: Iterable[Seen]) -> Beside:
    """Read what attempts.jsonl says of these trials; of a process that was killed it says less."""
    names = {one.trial.name for one in seen}
    works: list[Work] = []
    seconds = 0.0
    for run, record in attempted(root):
        if run not in names:
            continue
        if record.get("event") == "started":
            works.append(Work(**record.get("redone", {})))
        elif record.get("event") == "held":
            works.pop()  # somebody else had it: that attempt has computed nothing again
        seconds += record.get("beside_seconds", 0.0)
    return Beside(sum(works, Work()), seconds)


def bill(
    question: Question, seen: Sequence[Seen], setting: Setting, beside: Beside | None = None
) -> Bill:
    """Add the trials up, beside the whole training with `setting`."""
    beside = beside or Beside()
    config = whole_training(question, setting)
    line = _line_through_steps(seen)
    seconds = None
    if line:
        seconds = sum(
            span.steps * (line.slope * step_flops(config, span.rows, span.length) + line.intercept)
            for span in spans(config.schedule())
        )
    return Bill(
        trials=len(seen),
        work=sum((one.work for one in seen), beside.redone),
        beside=beside,
        training=plan(config, config.model.length),
        training_seconds=seconds,
    )


def _line_through_steps(seen: Iterable[Seen]) -> LinearRegression | None:
    """Fit the seconds of a step to its operations; None before any step.

        seconds = slope * operations + intercept

    A short step takes longer than its operations say, so the speed at a short length is not that at
    a longer one, which no trial has come to.
    """
    flops: list[int] = []
    seconds: list[float] = []
    for one in seen:
        before = 0.0
        for step in one.metrics.steps:
            flops.append(step_flops(one.trial.config, step.rows or 0, step.length or 0))
            seconds.append((step.seconds or 0.0) - before)
            before = step.seconds or 0.0
    if not flops:
        return None
    if len(set(flops)) > 1:
        line = linear_regression(flops, seconds)
        if line.slope >= 0 and line.intercept >= 0:
            return line
    return linear_regression([0, *flops], [0.0, *seconds], proportional=True)
