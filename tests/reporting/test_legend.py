"""The keys of a picture: inside it, clear of the title and of each other, told apart."""

import string
import xml.etree.ElementTree as xml
from itertools import combinations
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser

from lengthen.reporting.figures import TOP, WIDTH, Curve, Panel, draw
from lengthen.reporting.legend import shortened, width
from lengthen.util.errors import printable

SVG = "{http://www.w3.org/2000/svg}"
HEBREW, ARABIC, WIDE = "אבגדהוזחט", "ابتثجحخد", "長い名前の実験한국어ＷＷ"
LETTERS = st.characters() | st.sampled_from(HEBREW + ARABIC + WIDE + string.ascii_letters)
NEAR = 8  # pixels
NAMES = st.lists(st.text(LETTERS, min_size=1, max_size=200), min_size=1, max_size=8, unique=True)
TITLES = st.text(string.ascii_letters + " ", min_size=1, max_size=60)


class Box(NamedTuple):
    """What a text or a stroke covers of the picture, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Return whether both cover a point, or are too near to be told apart."""
        across = self.left < other.right + NEAR and other.left < self.right + NEAR
        return across and self.top < other.bottom and other.top < self.bottom


class Shown(NamedTuple):
    """A panel as a reader finds it."""

    title: Box
    keys: list[Box]  # with their strokes
    texts: list[str]
    whole: list[str]  # the names, cut or not
    plot: float  # where it begins
    height: float  # of the picture


def picture_of(names: list[str], title: str) -> str:
    return draw([Panel(title, "x", "y", [Curve(name, [(0, 1), (1, 2)]) for name in names])])


def panels_in(picture: str) -> list[Shown]:
    root = xml.fromstring(picture)
    height = float(root.attrib["viewBox"].split()[-1])
    return [_shown(group, height) for group in root.findall(f"{SVG}g")]


def shown(picture: str) -> Shown:
    (panel,) = panels_in(picture)
    return panel


def _shown(group: xml.Element, height: float) -> Shown:
    down = float(group.attrib["transform"].removesuffix(")").split()[1])
    elements = list(group)
    title, *_ = (one for one in elements if one.attrib.get("class") == "title")
    # A key is a thick stroke and the text behind it.
    thick = [n for n, one in enumerate(elements) if one.attrib.get("stroke-width") == "3"]
    texts = [elements[number + 1] for number in thick]
    starts = [float(elements[n].attrib["d"].removeprefix("M").split()[0]) for n in thick]
    return Shown(
        _box(title, down),
        [_box(text, down)._replace(left=x) for text, x in zip(texts, starts, strict=True)],
        [text.text or "" for text in texts],
        [text.findtext(f"{SVG}title") or text.text or "" for text in texts],
        down + TOP,
        height,
    )


def _box(text: xml.Element, down: float) -> Box:
    x, y = float(text.attrib["x"]), float(text.attrib["y"]) + down
    return Box(x, y - 12, x + width(text.text or ""), y + 4)


def well_laid(keys: list[Box], title: Box, plot: float) -> bool:
    inside = all(box.left >= 0 and box.right <= WIDTH and box.top >= 0 for box in [title, *keys])
    above = all(box.bottom <= plot for box in keys)
    return inside and above and not any(a.meets(b) for a, b in combinations([title, *keys], 2))


@given(NAMES, TITLES)
def test_every_key_is_inside_the_picture_and_clear_of_all_else(
    names: list[str], title: str
) -> None:
    found = shown(picture_of(names, title))
    assert len(found.keys) == len(names)
    assert well_laid(found.keys, found.title, found.plot)
    assert found.whole == [printable(name) for name in names]


@pytest.mark.parametrize("letter", ["W", "m", "e", "=", "א", "ب", "長", "Ж", "Ю", "ش", "é", "😀"])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_browser_agrees_that_the_keys_are_inside(
    browser: Browser, letter: str, count: int
) -> None:
    names = [letter * (25 * number) for number in range(1, count + 1)]
    page = browser.new_page(viewport={"width": WIDTH, "height": 800})
    page.set_content(f'<body style="margin: 0">{picture_of(names, "A title")}</body>')
    title, *keys = page.eval_on_selector_all(
        ".title, [stroke-width='3'] + .small",
        "all => all.map(one => one.getBoundingClientRect())"
        ".map(box => [box.left, box.top, box.right, box.bottom])",
    )
    plot = page.eval_on_selector(".axis", "one => one.getBoundingClientRect().top")
    assert len(keys) == count
    assert well_laid([Box(*key) for key in keys], Box(*title), plot)
    page.close()


def test_names_that_fit_stand_beside_the_title_and_cost_no_height() -> None:
    found = shown(picture_of(["baseline", "slw"], "Length"))
    assert {box.bottom for box in found.keys} == {found.title.bottom}
    assert found.height == shown(picture_of([], "Length")).height


def test_names_that_do_not_fit_take_lines_below_the_title_and_the_panel_grows() -> None:
    short, long = (
        shown(picture_of([letter * length for letter in "abc"], "Length")) for length in (5, 50)
    )
    assert min(box.top for box in long.keys) >= long.title.bottom
    assert len({box.bottom for box in long.keys}) == 3
    assert long.height - short.height == long.plot - short.plot == 3 * 18


def test_equal_keys_stand_alike_in_all_panels_as_the_widest_title_lets_them() -> None:
    name, wide = "a" * 60, "a title that leaves no room beside it"
    curve = Curve(name, [(0, 1), (1, 2)])
    root = xml.fromstring(draw([Panel(title, "x", "y", [curve]) for title in ("short", wide)]))
    texts = list(root.iter(f"{SVG}text"))
    places = {(one.attrib["x"], one.attrib["y"]) for one in texts if one.text == name}
    titles = {one.attrib["y"] for one in texts if one.attrib["class"] == "title"}
    assert len(places) == 1
    assert titles.isdisjoint(y for _, y in places)


def test_a_long_path_keeps_its_end_and_has_the_whole_for_the_pointer() -> None:
    path = "/a/folder" * 20 + "/slw.toml"
    found = shown(picture_of([path, "baseline"], "Length"))
    assert found.texts[0].startswith("…")
    assert found.texts[0].endswith("/a/folder/slw.toml")
    assert found.whole == [path, "baseline"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("one" + "/folder" * 20, "two" + "/folder" * 20),
        ("/home" * 20 + "/one" + "/folder" * 20, "/home" * 20 + "/two" + "/folder" * 20),
        ("/home" * 40, "/home" * 40 + "/one" + "/home" * 20),
    ],
)
def test_long_names_with_the_same_end_are_cut_so_that_they_differ(one: str, other: str) -> None:
    first, second = shortened([one, other], 300)
    assert first != second
    assert max(width(first), width(second)) <= 300


def test_what_xml_cannot_hold_is_written_out() -> None:
    found = shown(picture_of(["a\x01b\udcff"], "t\x02"))
    assert found.texts == ["a\\x01b\\udcff"]
