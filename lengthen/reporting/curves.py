"""Curves in panels, whatever draws them; of long ones fewer points, and no spike lost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

Point = tuple[float, float]

# Told apart by people who do not see colours alike, and on white and on black (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ((), (7, 4), (2, 3), (10, 4, 2, 4), (14, 5))  # pixels drawn and left out, in turn
LEAST = 4  # points: first, lowest and highest of one bucket, and the last of all


@dataclass(frozen=True)
class Look:
    """How a line is drawn."""

    colour: str  # "#rrggbb"
    dashes: tuple[int, ...]  # pixels drawn and left out, in turn; () is a solid line


@dataclass(frozen=True)
class Mark:
    """A point beside a curve, with a text."""

    x: float
    y: float
    text: str
    hollow: bool = False


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    points: Sequence[Point]
    family: str = ""  # curves of one family look alike and share a key; by default its own name
    breaks: Sequence[float] = ()  # where along x the value was not finite
    marks: Sequence[Mark] = ()

    @property
    def key(self) -> str:
        """The name under which the legend shows the curve."""
        return self.family or self.name


@dataclass(frozen=True)
class Panel:
    """A plot: its curves, and dashed lines across where those help to read it.

    On a logarithmic axis only what is above zero has a place; the rest is left out.
    """

    title: str
    x: str  # name of the axis; interactive panels with the same x zoom together
    y: str
    curves: Sequence[Curve]
    threshold: float | None = None  # height of the dashed line
    lesser: Sequence[float] = ()  # heights of fainter ones
    log_x: bool = False
    log_y: bool = False

    def thinned(self, most: int) -> "Panel":
        """Return the panel with the curves that have points, each with at most `most` of them."""
        curves = [curve for curve in self.curves if curve.points]
        return replace(self, curves=[replace(c, points=thin(c.points, most)) for c in curves])


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
