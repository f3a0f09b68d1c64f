"""What a run saved against the baseline's loss by its seconds."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.study_savings import Point, curves, saving

FALLING = (100.0, 5.6), (150.0, 5.3), (200.0, 5.2)


@st.composite
def falling(draw: st.DrawFn) -> tuple[Point, ...]:
    size = draw(st.integers(2, 5))
    steps = st.floats(0.01, 2.0)
    seconds, loss, points = draw(st.floats(1, 1e4)), draw(st.floats(3, 9)), []
    for _ in range(size):
        points.append((seconds, loss))
        seconds, loss = seconds * (1 + draw(steps)), loss - draw(steps)
    return tuple(points)


@given(falling(), st.integers(0, 3), st.floats(0, 1), st.floats(0.1, 1e4))
def test_a_loss_on_the_curve_is_reached_where_the_curve_has_it(
    curve: tuple[Point, ...], piece: int, part: float, seconds: float
) -> None:
    (before, above), (after, below) = list(pairwise(curve))[piece % (len(curve) - 1)]
    place = math.exp((1 - part) * math.log(before) + part * math.log(after))
    loss = max(below, min(above, (1 - part) * above + part * below))
    found = saving(curve, seconds, loss)
    assert found.bound == ""
    assert found.theirs == pytest.approx(place, rel=1e-6)
    assert found.share == pytest.approx(1 - seconds / place, abs=1e-5 * seconds / place)


@given(falling(), st.floats(1e-6, 5))
def test_a_loss_beyond_the_curve_gives_a_bound(curve: tuple[Point, ...], beyond: float) -> None:
    lower = saving(curve, 50.0, curve[-1][1] - beyond)
    assert (lower.bound, lower.theirs) == ("at least", curve[-1][0])
    higher = saving(curve, 50.0, curve[0][1] + beyond)
    assert (higher.bound, higher.theirs) == ("at most", curve[0][0])


def test_a_curve_that_rises_again_counts_where_it_first_had_the_loss() -> None:
    rising = (100.0, 5.6), (150.0, 5.2), (200.0, 5.3)
    assert saving(rising, 75.0, 5.2).theirs == pytest.approx(150)
    assert str(saving(rising, 75.0, 5.2)) == "50.0 %"
    assert str(saving(rising, 75.0, 5.1)) == "at least 62.5 %"


def test_a_seed_without_every_point_has_the_mean_curve_moved_to_its_own_end() -> None:
    points = {
        100.0: {0: 5.6, 1: 5.8},
        150.0: {0: 5.3, 1: 5.5, 2: 9.9},
        200.0: {0: 5.2, 1: 5.4, 2: 5.0},
    }
    found = curves(points)
    assert found[0].points == FALLING
    assert (found[0].own, found[1].own, found[2].own) == (True, True, False)
    assert [loss for _, loss in found[2].points] == pytest.approx([5.4, 5.1, 5.0])


def test_no_seed_with_every_point_leaves_the_end_alone() -> None:
    found = curves({100.0: {0: 5.6}, 200.0: {1: 5.4}})
    assert set(found) == {1}
    assert found[1].points == ((200.0, 5.4),)
    assert saving(found[1].points, 100.0, 5.4).share == 0.5
