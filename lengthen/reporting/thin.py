"""Fewer points for a curve, and no spike lost."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

Point = tuple[float, float]

LEAST = 4  # points: first, lowest and highest of one bucket, and the last of all


def points_per_curve(runs: int) -> int:
    """Return how many points a curve gets where `runs` of them share the figures of a page."""
    return max(200, min(2000, 24_000 // max(1, runs)))


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
