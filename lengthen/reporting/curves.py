"""Curves in panels, whatever draws them; of long ones fewer points, and no spike lost."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, geometric_mean

Point = tuple[float, float]

# Told apart by people who do not see colours alike, and on white and on black (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ((), (7, 4), (2, 3), (10, 4, 2, 4), (14, 5))  # pixels drawn and left out, in turn
CALM = 0.9  # of the values of a panel: what a spike may leave a quarter of its height
FEW_TICKS = 3  # fewer say too little of an axis
MOST_POWERS = 10  # of ten that an axis has room for
WORDED = 1e15  # from here on 1e+15 says more than the letters of thousands
LEAST = 4  # points: first, lowest and highest of one bucket, and the last of all


@dataclass(frozen=True)
class Look:
    """How a line is drawn."""

    colour: str  # "#rrggbb"
    dashes: tuple[int, ...]  # pixels drawn and left out, in turn; () is a solid line


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    points: Sequence[Point]
    family: str = ""  # curves of one family look alike and share a key; by default its own name
    breaks: Sequence[float] = ()  # where along x the value was not finite
    band: Sequence[Point] = ()  # lowest and highest at each point, of the runs it is the mean of

    @property
    def key(self) -> str:
        """The name under which the legend shows the curve."""
        return self.family or self.name

    def thinned(self, most: int) -> "Curve":
        """Return the curve with at most `most` of its points, each with its place in the band."""
        if len(self.points) <= most:
            return self
        kept = list(_kept(self.points, most))
        points, band = ([part[at] for at in kept if part] for part in (self.points, self.band))
        return replace(self, points=points, band=band)


@dataclass(frozen=True)
class Panel:
    """A plot: its curves, and a dashed line across where one helps to read it.

    On a logarithmic axis only what is above zero has a place; the rest is left out.
    """

    title: str
    x: str  # name of the axis; interactive panels with the same x zoom together
    y: str
    curves: Sequence[Curve]
    threshold: float | None = None  # height of that line
    log_x: bool = False
    log_y: bool = False

    def thinned(self, most: int) -> "Panel":
        """Return the panel with the curves that have points, each with at most `most` of them."""
        return replace(self, curves=[c.thinned(most) for c in self.curves if c.points])


def averaged(curves: Sequence[Curve], *, log: bool = False) -> list[Curve]:
    """Return a mean with a band for each family whose curves have points at the same places.

    The mean is geometric where `log`, so that it is that of the losses of perplexities. The curves
    of other families stay as they are.
    """
    families: dict[str, list[Curve]] = {}
    for curve in curves:
        families.setdefault(curve.key, []).append(curve)
    return [one for members in families.values() for one in _averaged(members, log=log)]


def _averaged(members: list[Curve], *, log: bool) -> list[Curve]:
    places = {tuple(x for x, _ in curve.points) for curve in members}
    if len(members) == 1 or len(places) > 1:
        return members
    columns = [[y for _, y in at] for at in zip(*(c.points for c in members), strict=True)]
    positive = all(y > 0 for column in columns for y in column)
    means = map(geometric_mean if log and positive else fmean, columns)
    return [
        Curve(
            f"{members[0].key}, mean of {len(members)}",
            list(zip(*places, means, strict=True)),
            members[0].key,
            sorted(x for curve in members for x in curve.breaks),
            band=[(min(column), max(column)) for column in columns],
        )
    ]


def flattened(curves: Sequence[Curve]) -> bool:
    """Return whether a few values leave the others so little height that a logarithm helps."""
    ys = sorted(y for curve in curves for _, y in curve.points)
    if not ys or ys[0] <= 0 or ys[0] == ys[-1]:
        return False
    few = int(len(ys) * (1 - CALM) / 2)

    def share(height: Callable[[float], float]) -> float:
        low, high = height(ys[few]), height(ys[-1 - few])
        return (high - low) / (height(ys[-1]) - height(ys[0]))

    return share(float) < min(0.25, share(math.log) / 1.5)


def log_ticks(values: Sequence[float]) -> list[float]:
    """Return round places within `values`, all above 0, for a logarithmic axis; none if too few."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    digits = (1, 1.5, 2, 3, 5, 7) if high < 50 * low else (1, 2, 5) if high < 1000 * low else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1, 1 + (last - first) // MOST_POWERS)
    every = (float(f"{digit}e{power}") for power in powers for digit in digits)
    ticks = [tick for tick in every if low <= tick <= high]
    return ticks if len(ticks) >= FEW_TICKS else []


def looks(panels: Sequence[Panel]) -> dict[str, Look]:
    """Return the look of each family in order of appearance, alike in all panels.

    The first 30 differ; later ones begin again.
    """
    keys = dict.fromkeys(curve.key for panel in panels for curve in panel.curves)
    return {
        key: Look(COLOURS[at % len(COLOURS)], DASHES[at // len(COLOURS) % len(DASHES)])
        for at, key in enumerate(keys)
    }


def thin(points: Sequence[Point], most: int) -> Sequence[Point]:
    """Return at most `most` of the points, in their order; all of them where they are no more.

    Equal buckets by index, of each its first point, its lowest and its highest; and the last point
    of all, since there a curve ends. So every extreme of the curve stays. `most` is at least 4.
    """
    assert most >= LEAST
    return points if len(points) <= most else [points[at] for at in _kept(points, most)]


def _kept(points: Sequence[Point], most: int) -> Iterator[int]:
    buckets = (most - 1) // 3
    last = len(points) - 1
    edges = [last * number // buckets for number in range(buckets + 1)]
    for start, stop in pairwise(edges):
        heights = [y for _, y in points[start:stop]]
        lowest = start + heights.index(min(heights))
        highest = start + heights.index(max(heights))
        yield from sorted({start, lowest, highest})
    yield last
