"""The picture: curves where they belong, names escaped, readable by any browser."""

import xml.etree.ElementTree as xml

import pytest

from lengthen.reporting.figures import (
    COLOURS,
    Curve,
    Mark,
    Panel,
    draw,
    log_ticks,
    short,
    stroke,
    ticks,
)

SVG = "{http://www.w3.org/2000/svg}"


def points_of(picture: str) -> list[list[tuple[float, float]]]:
    lines = xml.fromstring(picture).iter(f"{SVG}polyline")
    return [
        [
            (float(x), float(y))
            for x, y in (pair.split(",") for pair in line.attrib["points"].split())
        ]
        for line in lines
    ]


def test_a_higher_value_stands_higher_and_a_later_one_further_right() -> None:
    panel = Panel("loss", "tokens", "nats", [Curve("run", [(0, 6.0), (10, 5.0), (20, 5.5)])])
    ((first, second, third),) = points_of(draw([panel]))
    assert first[0] < second[0] < third[0]
    assert first[1] < third[1] < second[1]


def test_names_cannot_become_elements() -> None:
    name = '<script>alert("1")</script>&'
    picture = draw([Panel(name, name, name, [Curve(name, [(0, 1), (1, 2)])])])
    root = xml.fromstring(picture)
    assert {element.tag for element in root.iter()} <= {
        SVG + tag for tag in ("svg", "style", "g", "text", "path", "polyline")
    }
    assert [text.text for text in root.iter(f"{SVG}text")].count(name) == 4


def test_a_run_without_a_figure_says_so() -> None:
    assert "nothing was measured" in draw([Panel("t", "x", "y", [Curve("a", [])])])


def test_a_constant_curve_is_drawn() -> None:
    ((_, _),) = points_of(draw([Panel("t", "x", "y", [Curve("a", [(0, 3.0), (5, 3.0)])])]))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 740_000), (5.93, 6.61), (-3, 3), (0, 1e-6)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 3 <= len(marks) <= 8
    assert all(low - 1e-12 <= mark <= high + 1e-12 for mark in marks)


def test_numbers_are_short() -> None:
    assert [short(v) for v in (0, 6.25, 250_000, 1_500_000)] == ["0", "6.25", "250K", "1.5M"]


def test_a_decade_is_as_wide_anywhere_on_a_logarithmic_axis() -> None:
    curve = Curve("a", [(0.001, 10), (0.01, 100), (0.1, 1000)])
    ((first, second, third),) = points_of(
        draw([Panel("t", "x", "y", [curve], log_x=True, log_y=True)])
    )
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.2)
    assert second[1] - first[1] == pytest.approx(third[1] - second[1], abs=0.2)


def test_what_has_no_logarithm_is_left_out() -> None:
    curve = Curve("a", [(0, 1.0), (1, 0.0), (2, -1.0), (3, 4.0)])
    (points,) = points_of(draw([Panel("t", "x", "y", [curve], log_x=True, log_y=True)]))
    assert len(points) == 1
    nothing = Panel("t", "x", "y", [Curve("a", [(0, 0)])], log_y=True)
    assert "nothing was measured" in draw([nothing])


@pytest.mark.parametrize(("low", "high"), [(1e-3, 1e-1), (30, 900), (95, 130), (1, 1e6)])
def test_logarithmic_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    marks = log_ticks(low, high)
    assert 3 <= len(marks) <= 8
    assert all(low <= mark <= high for mark in marks)


def test_a_family_has_one_colour_and_one_key() -> None:
    curves = [Curve(f"a/{seed}", [(0, 1), (1, seed)], family="a") for seed in range(3)]
    picture = draw([Panel("t", "x", "y", [*curves, Curve("b", [(0, 2), (1, 3)])])])
    root = xml.fromstring(picture)
    strokes = [line.attrib["stroke"] for line in root.iter(f"{SVG}polyline")]
    assert strokes == [COLOURS[0]] * 3 + [COLOURS[1]]
    assert [text.text for text in root.iter(f"{SVG}text")].count("a") == 1


def test_thirty_families_look_different() -> None:
    assert len({stroke(number) for number in range(30)}) == 30


def test_all_marks_within_the_plot_are_drawn() -> None:
    panel = Panel("t", "x", "y", [Curve("a", [(0, 1), (1, 1.3)])], mark=1.2, lesser=[1.1, 1.5])
    classes = [
        path.attrib.get("class") for path in xml.fromstring(draw([panel])).iter(f"{SVG}path")
    ]
    assert (classes.count("mark"), classes.count("mark lesser")) == (1, 1)


def test_marks_are_circles_full_or_empty_where_they_belong() -> None:
    marks = [Mark(1, 1, "<a>"), Mark(2, 2, "b", hollow=True), Mark(99, 1, "outside")]
    picture = draw([Panel("t", "x", "y", [Curve("a", [(0, 1), (1, 1), (2, 2)], marks=marks)])])
    circles = [circle.attrib for circle in xml.fromstring(picture).iter(f"{SVG}circle")]
    assert [circle["fill"] for circle in circles] == [COLOURS[0], "none"]
    ((_, at_one, at_two),) = points_of(picture)
    places = [(float(circle["cx"]), float(circle["cy"])) for circle in circles]
    assert places == [at_one, at_two]


def test_a_value_that_was_not_finite_is_a_cross_at_the_foot() -> None:
    plain, broken = (
        draw([Panel("t", "x", "y", [Curve("a", [(0, 1), (9, 2)], breaks=breaks)])])
        for breaks in ((), (4,))
    )
    assert broken.count("<path") == plain.count("<path") + 1
