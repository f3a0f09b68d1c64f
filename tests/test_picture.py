"""The picture: curves where they belong, names escaped, readable by any browser."""

import xml.etree.ElementTree as xml

import pytest

from lengthen.picture import Curve, Panel, draw, short, ticks

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
