"""The picture: curves where they belong, any name as it is, SVG and PNG, equal bytes each time."""

import subprocess
import sys
import xml.etree.ElementTree as xml
from dataclasses import replace

import pytest

from lengthen.reporting.curves import COLOURS, Curve, Panel
from lengthen.reporting.figures import POINTS, draw
from tests.reporting.drawn import SVG, colours, lines, texts

RUN = Curve("run", [(0, 6.0), (10, 5.0), (20, 5.5)])


def svg(*panels: Panel) -> bytes:
    return draw(panels, ".svg")


def panel(*curves: Curve, log_x: bool = False, log_y: bool = False) -> Panel:
    return Panel("t", "x", "y", curves, log_x=log_x, log_y=log_y)


def test_a_higher_value_stands_higher_and_a_later_one_further_right() -> None:
    ((first, second, third),) = lines(svg(panel(RUN)))[0]
    assert first[0] < second[0] < third[0]
    assert first[1] < third[1] < second[1]


@pytest.mark.parametrize(
    "name",
    ['<script>alert("1")</script>&', "_under", "$x^2$ \\frac", "50%", "長い名前", "a" * 300],
)
def test_f49_any_name_is_shown_as_it_is(name: str) -> None:
    picture = svg(Panel(name, name, name, [Curve(name, [(0, 1), (1, 2)])]))
    assert "script" not in {one.tag.removeprefix(SVG) for one in xml.fromstring(picture).iter()}
    assert "".join(texts(picture)).count(name) == 4  # title, both axes, legend
    assert draw([Panel(name, name, name, [RUN])], ".png").startswith(b"\x89PNG")


def test_what_xml_cannot_hold_is_written_out() -> None:
    assert "a\\x01b\\udcff" in texts(svg(panel(Curve("a\x01b\udcff", [(0, 1), (1, 2)]))))


@pytest.mark.parametrize("kind", [".svg", ".png"])
def test_equal_panels_give_equal_bytes_without_a_date(kind: str) -> None:
    first, second = (draw([panel(RUN), panel(RUN, log_y=True)], kind) for _ in range(2))
    assert first == second
    assert b"date" not in first.lower()


def test_a_panel_without_a_point_says_so() -> None:
    nothing = "nothing was measured"
    assert nothing in texts(svg(panel(Curve("a", []))))
    assert nothing in texts(svg(panel(Curve("a", [(0, 0)]), log_y=True)))


def test_a_constant_curve_and_a_single_point_are_drawn() -> None:
    drawn = lines(svg(panel(Curve("a", [(0, 3.0), (5, 3.0)]), Curve("b", [(1, 3.0)]))))
    assert [len(points) for points in drawn[0]] == [2, 1]


def test_a_decade_is_as_wide_anywhere_on_a_logarithmic_axis() -> None:
    curve = Curve("a", [(0.001, 10), (0.01, 100), (0.1, 1000)])
    ((first, second, third),) = lines(svg(panel(curve, log_x=True, log_y=True)))[0]
    for axis in (0, 1):
        assert second[axis] - first[axis] == pytest.approx(third[axis] - second[axis], abs=0.01)


def test_what_has_no_logarithm_is_left_out() -> None:
    curve = Curve("a", [(0, 1.0), (1, 0.0), (2, -1.0), (3, 4.0), (4, 5.0)])
    (points,) = lines(svg(panel(curve, log_x=True, log_y=True)))[0]
    assert len(points) == 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 2_000_000, "1M"), (0, 4000, "2k"), (0, 0.004, "0.002"), (5.9, 6.7, "6.2")],
)
@pytest.mark.parametrize("log", [False, True])
def test_axes_show_short_round_numbers(low: float, high: float, expected: str, log: bool) -> None:
    if log and low == 0:
        low = high / 1000
    shown = texts(svg(panel(Curve("a", [(1, low), (2, high)]), log_y=log)))
    assert log or expected in shown
    assert all(len(text) <= 6 for text in shown)
    assert len(shown) >= 6


def test_a_spike_of_a_hundred_nats_leaves_an_axis_that_can_be_read() -> None:
    shown = texts(svg(panel(Curve("a", [(1, 70), (2, 2.7e43), (3, 60)]), log_y=True)))
    assert {"1M", "1e+16", "1e+41"} <= set(shown)
    assert max(map(len, shown)) <= 6


def test_a_family_has_one_colour_in_all_panels_and_one_key() -> None:
    seeds = [Curve(f"a/{seed}", [(0, 1), (1, seed)], family="a") for seed in range(3)]
    other = Curve("b", [(0, 2), (1, 3)])
    picture = svg(panel(*seeds, other), panel(other))
    assert colours(picture) == [COLOURS[0]] * 3 + [COLOURS[1]] * 2
    assert (texts(picture).count("a"), texts(picture).count("b")) == (1, 1)


def test_a_spike_in_a_long_curve_is_drawn() -> None:
    (points,) = lines(svg(panel(Curve("a", [(x, x == 777) for x in range(5000)]))))[0]
    assert len(points) <= POINTS
    tops = [y for _, y in points]
    assert tops.count(min(tops)) == 1


def used(picture: bytes) -> int:
    """Return how many kinds of symbols the picture has."""
    return picture.count(b"PathCollection_")


def test_a_value_that_was_not_finite_is_a_symbol() -> None:
    points = [(0, 1), (9, 2)]
    plain = used(svg(panel(Curve("a", points))))
    assert used(svg(panel(Curve("a", points, breaks=[4])))) == plain + 1


def test_a_single_point_has_a_mark_since_no_line_leads_to_it() -> None:
    alone, led_to = (used(svg(panel(Curve("a", [(1, 3.0), (2, 3.0)][:n])))) for n in (1, 2))
    assert alone == led_to + 1


def test_a_threshold_is_a_dashed_line() -> None:
    plain = panel(Curve("a", [(0, 1), (1, 1.3)]))
    marked = replace(plain, threshold=1.2)
    before, after = (svg(one).count(b"stroke-dasharray") for one in (plain, marked))
    assert after == before + 1


def test_loading_a_command_does_not_load_matplotlib_or_plotly() -> None:
    code = (
        "import sys, lengthen.planning.forecast, lengthen.experiments.demo; "
        "print([name for name in ('matplotlib', 'plotly') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
