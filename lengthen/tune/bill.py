"""What a search has cost, and what share of the whole training that is."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lengthen import cost
from lengthen.clock import steps
from lengthen.plan import Plan, plan
from lengthen.settings import changed
from lengthen.tune.question import Question
from lengthen.tune.search import Setting
from lengthen.tune.trials import Seen


@dataclass(frozen=True)
class Bill:
    """The trials together, evaluation included, beside the one training that they are for."""

    trials: int
    tokens: int  # trained
    judged: int  # validation tokens read
    flops: float
    seconds: float  # of all processes together; starting and saving are not in it
    training: Plan
    training_seconds: float | None  # at the trials' own speed; None before any step

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


def bill(question: Question, seen: Sequence[Seen], setting: Setting) -> Bill:
    """Add the trials up, beside the whole training with `setting`."""
    # The share is of the training at the rows that were asked about, whatever --aggressive found.
    plain = Setting(setting.start, setting.multiple)
    config = changed(question.training(plain), {"budget": {"tokens": question.budget}})
    speeds = _speeds(seen)
    seconds = None
    if speeds:
        seconds = sum(
            cost.flops(config.model, shape.rows, shape.length) / _nearest(speeds, shape.length)
            for _, shape in steps(config.schedule())
        )
    return Bill(
        trials=len(seen),
        tokens=sum(one.tokens for one in seen),
        judged=sum(one.judged for one in seen),
        flops=sum(one.flops for one in seen),
        seconds=sum(one.seconds for one in seen),
        training=plan(config, config.model.length),
        training_seconds=seconds,
    )


def _speeds(seen: Iterable[Seen]) -> dict[int, float]:
    """Return the operations in a second of the steps at each length."""
    flops: Counter[int] = Counter()
    seconds: dict[int, float] = {}
    for one in seen:
        before = 0.0
        for step in one.metrics.of("step"):
            length = int(step["length"])
            flops[length] += cost.flops(one.trial.config.model, step["rows"], length)
            seconds[length] = seconds.get(length, 0.0) + step["seconds"] - before
            before = step["seconds"]
    return {length: flops[length] / spent for length, spent in seconds.items() if spent > 0}


def _nearest(speeds: dict[int, float], length: int) -> float:
    """Return the speed at a length, or at the measured one that is nearest to it."""
    return speeds[min(speeds, key=lambda measured: abs(measured - length))]
