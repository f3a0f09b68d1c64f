"""Curves: fewer points with nothing lost that a reader looks for, and looks that differ."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lengthen.reporting.curves import LEAST, Curve, Panel, Point, looks, thin

heights = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=400)
curves = heights.map(lambda ys: [(float(x), y) for x, y in enumerate(ys)])


@given(curves, st.integers(LEAST, 60))
def test_no_more_points_than_asked_for(points: list[Point], most: int) -> None:
    assert len(thin(points, most)) <= most


@given(curves, st.integers(LEAST, 60))
def test_extremes_and_both_ends_stay(points: list[Point], most: int) -> None:
    kept = thin(points, most)
    if points:
        assert {kept[0], kept[-1]} == {points[0], points[-1]}
        assert max(y for _, y in kept) == max(y for _, y in points)
        assert min(y for _, y in kept) == min(y for _, y in points)


@given(curves, st.integers(LEAST, 60))
def test_what_stays_are_points_of_the_curve_in_their_order(points: list[Point], most: int) -> None:
    kept = thin(points, most)
    assert set(kept) <= set(points)
    assert all(before < after for (before, _), (after, _) in pairwise(kept))


@given(curves)
def test_a_short_curve_stays_as_it_is(points: list[Point]) -> None:
    assert thin(points, max(LEAST, len(points))) is points


@given(st.integers(0, 19_999), st.integers(LEAST, 2000))
def test_a_spike_of_one_step_is_never_lost(at: int, most: int) -> None:
    points = [(float(x), 5.0 if x == at else 1.0) for x in range(20_000)]
    assert points[at] in thin(points, most)


def test_thirty_families_look_different_and_each_alike_in_all_panels() -> None:
    names = [str(number) for number in range(30)]
    panels = [
        Panel("t", "x", "y", [Curve(name, [], family=name) for name in some])
        for some in (names[:20], names[10:])
    ]
    known = looks(panels)
    assert list(known) == names
    assert len(set(known.values())) == 30


def test_a_thinned_panel_has_no_curve_without_points() -> None:
    curves = [Curve("a", [(x, x) for x in range(100)]), Curve("b", [])]
    (curve,) = Panel("t", "x", "y", curves).thinned(10).curves
    assert (curve.name, len(curve.points) <= 10) == ("a", True)
