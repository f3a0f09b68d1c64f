"""Curves: fewer points with nothing lost that a reader looks for, and looks that differ."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lengthen.reporting.curves import (
    LEAST,
    Curve,
    Panel,
    Point,
    averaged,
    flattened,
    log_ticks,
    looks,
    thin,
)

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


def test_of_a_thinned_mean_each_point_keeps_its_part_of_the_band() -> None:
    low, high = ([(float(x), float(x + more)) for x in range(100)] for more in (0, 2))
    runs = [Curve("a", low, "f"), Curve("b", high, "f")]
    (mean,) = Panel("t", "x", "y", averaged(runs)).thinned(10).curves
    assert len(mean.points) <= 10
    assert mean.band == [(y - 1, y + 1) for _, y in mean.points]


def test_a_thinned_panel_has_no_curve_without_points() -> None:
    curves = [Curve("a", [(x, x) for x in range(100)]), Curve("b", [])]
    (curve,) = Panel("t", "x", "y", curves).thinned(10).curves
    assert (curve.name, len(curve.points) <= 10) == ("a", True)


positive = st.floats(1e-6, 1e6)
seeds = st.integers(1, 20).flatmap(
    lambda places: st.lists(
        st.lists(positive, min_size=places, max_size=places), min_size=2, max_size=5
    )
)


@given(seeds, st.booleans())
def test_a_mean_lies_in_the_band_from_the_lowest_to_the_highest(
    ys: list[list[float]], log: bool
) -> None:
    members = [Curve(f"a/{n}", list(enumerate(own)), family="a") for n, own in enumerate(ys)]
    (mean,) = averaged(members, log=log)
    for (_, y), (low, high), *own in zip(mean.points, mean.band, *ys, strict=True):
        assert (low, high) == (min(own), max(own))
        assert low * (1 - 1e-12) <= y <= high * (1 + 1e-12)


def test_seeds_that_were_measured_elsewhere_are_not_averaged() -> None:
    members = [Curve("a/0", [(1, 2.0)], "a"), Curve("a/1", [(2, 2.0)], "a"), Curve("b", [(1, 1.0)])]
    assert averaged(members) == members


def test_one_spike_flattens_a_curve_and_a_steady_fall_does_not() -> None:
    fall = [(float(x), 9 - x / 20) for x in range(100)]
    assert not flattened([Curve("a", fall)])
    assert flattened([Curve("a", [*fall, (100.0, 5000.0)])])
    assert not flattened([Curve("a", [*fall, (100.0, 5000.0), (101.0, 0.0)])])  # has no logarithm
    assert not flattened([Curve("a", [(0.0, 1.0)] * 9)])


@given(st.lists(positive, min_size=1, max_size=9))
def test_ticks_of_a_logarithmic_axis_lie_within_its_values(values: list[float]) -> None:
    ticks = log_ticks(values)
    assert ticks == sorted(set(ticks))
    assert all(min(values) <= tick <= max(values) for tick in ticks)
    assert ticks or max(values) < 1000 * min(values)
    assert len(ticks) <= 11  # more would lie on each other


def test_ticks_lie_where_curves_of_perplexity_end() -> None:
    assert log_ticks([222, 4000]) == [300, 500, 700, 1000, 1500, 2000, 3000]
