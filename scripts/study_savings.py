"""How many seconds a run saved: the baseline's loss by its seconds, read backwards.

    saving = 1 - seconds / T,    T: seconds after which the baseline has the run's final loss

The baseline's losses are those of runs on more and more tokens, each with its own decay, so that
none is a look into a run that was to go on. Between two of them the loss is linear in the logarithm
of the seconds. T is the first place at or below the loss.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

Point = tuple[float, float]  # seconds, loss in nats
BySeed = Mapping[int, float]  # losses


@dataclass(frozen=True)
class Curve:
    """The baseline's loss by its seconds, of one seed."""

    points: tuple[Point, ...]  # by rising seconds
    own: bool  # every point was trained with this seed; otherwise it is the others' mean, moved


@dataclass(frozen=True)
class Saving:
    """What a run saved, as a share of the baseline's seconds to the same loss."""

    share: float
    bound: str  # "" for a place on the curve, else "at least" or "at most": the loss is beyond it
    theirs: float  # the baseline's seconds to that loss, or to the end of its curve

    def __str__(self) -> str:
        return f"{self.bound} {100 * self.share:.1f} %".strip()


def curves(points: Mapping[float, BySeed]) -> dict[int, Curve]:
    """Return the curve of each seed that the run of the most seconds has.

    `points` are the losses by seconds and seed. A seed with a run at every point has its own curve.
    For another it is the mean of those, moved up or down to its own loss at the most seconds.
    """
    places = sorted(points)
    whole = set.intersection(*(set(points[place]) for place in places))
    found = {}
    for seed, last in points[places[-1]].items():
        if seed in whole:
            own = tuple((place, points[place][seed]) for place in places)
            found[seed] = Curve(own, own=True)
            continue
        means = [fmean(points[place][one] for one in whole) for place in places if whole]
        moved = zip(places, (mean - means[-1] + last for mean in means), strict=False)
        found[seed] = Curve(tuple(moved) or ((places[-1], last),), own=False)
    return found


def saving(curve: Sequence[Point], seconds: float, loss: float) -> Saving:
    """Return what a run of so many seconds to such a loss saved against a curve."""
    first, last = curve[0], curve[-1]
    if loss > first[1]:
        return Saving(1 - seconds / first[0], "at most", first[0])
    for (before, above), (after, below) in pairwise(curve):
        if below <= loss:
            part = (above - loss) / (above - below) if above > below else 0.0
            theirs = math.exp((1 - part) * math.log(before) + part * math.log(after))
            return Saving(1 - seconds / theirs, "", theirs)
    bound = "" if loss == last[1] else "at least"
    return Saving(1 - seconds / last[0], bound, last[0])
