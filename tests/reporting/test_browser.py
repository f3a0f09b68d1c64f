"""The page in a real browser: drawn, linked, quiet, and closed to the network."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from lengthen.reporting.html import write
from lengthen.reporting.losses import final_losses
from lengthen.util.tables import Table
from tests.reporting.logs import run, run_of

EVIL = "<script>alert(1)</script>"
# Of the standard panels.
STEP, TOKEN, LOSS, SPIKES, PROBE, LENGTH = (f"figure-{number}" for number in (2, 0, 4, 1, 5, 9))
FIGURES = 13
DRAWN = "document.querySelectorAll('.js-plotly-plot .legend').length"
PLOT = "const plot = document.querySelector(`#${id} .plotly-graph-div`); "
RANGE = f"id => {{ {PLOT} return plot._fullLayout.xaxis.range }}"
HEIGHT = f"id => {{ {PLOT} return plot._fullLayout.yaxis.range }}"
VISIBLE = f"id => {{ {PLOT} return plot._fullData.map(trace => trace.visible) }}"


@dataclass
class Opened:
    """A page, and all that it did that no reader sees."""

    page: Page
    complaints: list[str] = field(default_factory=list)  # errors, dialogs, requests

    def __call__(self, script: str, argument: object = None) -> Any:
        return self.page.evaluate(script, argument)

    def wait(self, script: str, argument: object = None) -> None:
        """Wait until `script` is true; the page's policy forbids the driver's own way to wait."""
        for _ in range(200):
            if self(script, argument):
                return
            self.page.wait_for_timeout(25)
        raise AssertionError(f"still not true after 5 seconds: {script}")

    def drag(self, figure: str, start: float, stop: float, up: float = 0) -> None:
        """Drag over a plot from one share of its width to another, and up by one of its height."""
        self.page.locator(f"#{figure}").scroll_into_view_if_needed()
        box = self.page.locator(f"#{figure} .nsewdrag").first.bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + start * box["width"], middle)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + stop * box["width"], middle - up * box["height"], steps=4)
        self.page.mouse.up()


def open_page(
    browser: Browser, path: Path, size: tuple[int, int] = (1280, 1000), **context: Any
) -> Opened:
    viewport = ViewportSize(width=size[0], height=size[1])
    opened = Opened(browser.new_page(viewport=viewport, **context))

    def watch(url: str) -> None:
        if url != path.as_uri() and not url.startswith(("data:", "blob:")):
            opened.complaints.append(f"request {url}")

    def dialog(shown: Any) -> None:
        opened.complaints.append(f"dialog {shown.message}")
        shown.dismiss()

    opened.page.on("request", lambda request: watch(request.url))
    opened.page.on("dialog", dialog)
    opened.page.on("pageerror", lambda error: opened.complaints.append(f"error {error}"))
    opened.page.on("console", lambda said: opened.complaints.append(f"console {said.text}"))
    opened.page.goto(path.as_uri())
    opened.wait(f"{DRAWN} > 0")
    return opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three runs: one with a hostile name, one for spreadsheets, one that broke."""
    lines = [
        {"kind": "step", "step": n, "tokens": 8 * n, "loss": None if n == 3 else 4.0}
        for n in range(1, 6)
    ]
    runs = [run(EVIL, 200, spike=50), run('=plain, "b"', 200), run_of(*lines, name="broke")]
    out = tmp_path_factory.mktemp("browser") / "report.html"
    tables = [Table(title, ("run", "n"), (("a", "1"),)) for title in ("first", "second")]
    write(out, runs, title=EVIL, verdicts=[EVIL], tables=tables)
    return out


@pytest.fixture(scope="module")
def shared(browser: Browser, report: Path) -> Iterator[Opened]:
    """The page opened once, since opening takes most of the time."""
    shown = open_page(browser, report)
    yield shown
    shown.page.close()


@pytest.fixture
def opened(shared: Opened) -> Iterator[Opened]:
    """The page as it was at first."""
    shared.page.reload()
    shared.wait(f"{DRAWN} === {FIGURES}")
    yield shared
    assert shared.complaints == []


def test_f49_hostile_names_show_as_text(opened: Opened) -> None:
    assert opened.page.locator("h1").inner_text() == EVIL
    assert opened.page.locator(".verdicts li").inner_text() == EVIL
    assert opened.page.locator(f"#{STEP} .legendtext").first.text_content() == EVIL
    opened(
        f"id => {{ {PLOT} Plotly.Fx.hover(plot, [{{ curveNumber: 0, pointNumber: 3 }}]) }}", STEP
    )
    opened.page.wait_for_selector(f"#{STEP} .hovertext")
    assert EVIL in (opened.page.locator(f"#{STEP} .hovertext").first.text_content() or "")


def test_a_zoom_moves_the_figures_with_the_same_axis_alone(opened: Opened) -> None:
    tokens = opened(RANGE, TOKEN)
    opened.drag(STEP, 0.25, 0.5)
    low, high = opened(RANGE, STEP)
    assert 30 < low < 70 < high < 120
    for figure in (SPIKES, PROBE, LENGTH):
        opened.wait(f"id => ({RANGE})(id)[1] < 120", figure)
        assert opened(RANGE, figure) == pytest.approx([low, high])
    assert opened(RANGE, TOKEN) == tokens


def test_a_double_click_shows_everything_again(opened: Opened) -> None:
    whole, height = opened(RANGE, LENGTH), opened(HEIGHT, STEP)
    opened.drag(STEP, 0.25, 0.5, up=0.4)
    assert opened(HEIGHT, STEP) != height
    opened.wait(f"id => ({RANGE})(id)[1] < 120", LENGTH)
    box = opened.page.locator(f"#{STEP} .nsewdrag").first.bounding_box()
    assert box is not None
    opened.page.mouse.dblclick(box["x"] + 100, box["y"] + 100)
    opened.wait(f"id => ({RANGE})(id)[1] > 190", LENGTH)
    assert opened(RANGE, LENGTH) == whole
    assert opened(HEIGHT, STEP) == height


def test_a_name_in_a_legend_hides_its_curves_in_all_figures(opened: Opened) -> None:
    key = opened.page.locator(f"#{STEP} .legendtoggle").first
    for shown in ("legendonly", True):
        key.click()
        for figure, curves in ((STEP, 2), (LENGTH, 2), (LOSS, 4)):
            opened.wait(f"id => ({VISIBLE})(id)[0] === {json.dumps(shown)}", figure)
            assert opened(VISIBLE, figure) == [shown, *[True] * (curves - 1)]


def test_a_double_click_in_a_legend_shows_one_run_alone(opened: Opened) -> None:
    opened.page.locator(f"#{STEP} .legendtoggle").first.dblclick()
    opened.wait(f"id => ({VISIBLE})(id)[1] === 'legendonly'", LENGTH)
    assert opened(VISIBLE, LENGTH) == [True, "legendonly"]


def test_dark_and_light_follow_the_system(browser: Browser, report: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.querySelector('.xtitle')).fill"
    shown = open_page(browser, report, color_scheme="dark")
    dark = shown(paper), shown(text)
    shown.page.emulate_media(color_scheme="light")
    light = shown(paper), shown(text)
    assert (dark[0], light[0]) == ("rgb(21, 23, 26)", "rgb(255, 255, 255)")
    assert dark[1] != light[1]
    shown.page.close()


def test_on_paper_all_figures_are_drawn_on_white_without_buttons(
    browser: Browser, report: Path
) -> None:
    shown = open_page(browser, report, color_scheme="dark")
    assert shown.page.pdf(format="A4").startswith(b"%PDF")
    shown.page.emulate_media(media="print")
    assert shown.page.locator(".js-plotly-plot").count() == FIGURES
    assert shown("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not any(button.is_visible() for button in shown.page.locator("button").all())
    assert shown.page.locator(".legend").first.is_visible()
    assert shown.complaints == []
    shown.page.close()


def test_folded_tables_are_printed(browser: Browser, report: Path) -> None:
    shown = open_page(browser, report)
    folded = shown.page.locator("main > details td").first
    assert not folded.is_visible()
    shown.page.emulate_media(media="print")
    assert folded.is_visible()
    shown.page.close()


TOPS = """() => ["table", ".js-plotly-plot"].map(
    (name) => document.querySelector(name).getBoundingClientRect()
).map(({ top, bottom }) => [top, bottom])"""


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (400, 850)])
@pytest.mark.parametrize("runs", [1, 32])
def test_final_losses_are_on_the_first_screen_and_the_first_figure_is_near(
    browser: Browser, tmp_path: Path, width: int, height: int, runs: int
) -> None:
    study = [run(f"variant {n % 4}, learning_rate=0.01/seed-{n // 4}") for n in range(runs)]
    families = {one.name: one.name.partition("/")[0] for one in study}
    sentence = (
        f"{study[0].name} and {study[-1].name} are not distinguishable: difference {0.1} nats"
    )
    table = final_losses(study, families)
    write(
        tmp_path / "r.html", study, title="t" * 30, verdicts=[f"{sentence} over 8 seeds"] * runs,
        tables=[table, table], families=families,
    )  # fmt: skip
    shown = open_page(browser, tmp_path / "r.html", size=(width, height))
    (table_top, _), (figure_top, _) = shown(TOPS)
    assert table_top < height - 100
    assert figure_top < 900
    assert shown.complaints == []
    shown.page.close()


BOXES = """() => [...document.querySelectorAll("figure")].map((figure) => {
    const box = (name) => figure.querySelector(name).getBoundingClientRect();
    return [box(".legend"), box(".nsewdrag"), figure.getBoundingClientRect()].map(
        ({ left, right, top, bottom }) => [left, right, top, bottom]);
})"""


@pytest.mark.parametrize("width", [1280, 400])
def test_a_legend_covers_no_curve_and_is_cut_nowhere(
    browser: Browser, report: Path, width: int
) -> None:
    shown = open_page(browser, report, size=(width, 900))
    shown.wait(f"{DRAWN} === {FIGURES}")
    for legend, plot, figure in shown(BOXES):
        if width > 700:
            assert legend[0] > plot[1]
        else:
            assert legend[2] > plot[3]
        assert legend[1] <= figure[1] + 1
        assert legend[3] <= figure[3] + 1
    assert shown("document.documentElement.scrollWidth") == width
    shown.page.close()


CUT = """() => [...document.querySelectorAll(".legend .scrollbar")].some(
    (bar) => bar.getBBox().height > 0)"""


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two dozen runs, each with a name of its own in the legends."""
    out = tmp_path_factory.mktemp("crowd") / "report.html"
    write(out, [run(f"variant {n}, learning_rate=0.01") for n in range(24)], title="t")
    return out


@pytest.mark.parametrize("width", [1280, 400])
def test_many_names_are_whole_on_the_page_on_paper_and_in_a_saved_figure(
    browser: Browser, crowd: Path, width: int
) -> None:
    shown = open_page(browser, crowd, size=(width, 900))
    shown.wait(f"{DRAWN} === {FIGURES}")
    assert not shown(CUT)
    with shown.page.expect_download() as saved:
        shown.page.locator(f"#{SPIKES}").get_by_role("button", name="SVG").click()
    svg = Path(saved.value.path()).read_text(encoding="utf-8")
    bar = re.search(r'<rect class="scrollbar"[^>]* height="([0-9.]+)"', svg)
    plot = re.search(r'class="plotclip"><rect width="[0-9.]+" height="([0-9.]+)"', svg)
    assert bar is not None
    assert plot is not None
    assert float(bar[1]) == 0
    assert float(plot[1]) > 300
    shown.page.emulate_media(media="print")
    shown("dispatchEvent(new Event('beforeprint'))")
    shown.page.wait_for_timeout(100)
    assert not shown(CUT)
    shown.page.close()


@pytest.mark.parametrize("kind", ["SVG", "PNG"])
def test_a_button_saves_a_figure_for_a_paper(opened: Opened, kind: str) -> None:
    with opened.page.expect_download() as saved:
        opened.page.locator(f"#{SPIKES}").get_by_role("button", name=kind).click()
    assert saved.value.suggested_filename == f"Loss ratio of the steps.{kind.lower()}"
    start = Path(saved.value.path()).read_bytes()[:4]
    assert start == (b"<svg" if kind == "SVG" else b"\x89PNG")


@pytest.mark.parametrize("runs", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_a_page_works_with_one_run_and_with_thirty(
    browser: Browser, tmp_path: Path, runs: int
) -> None:
    out = tmp_path / "report.html"
    write(out, [run(f"variant-{n}", 2000) for n in range(runs)], title="t", verdicts=["v"] * runs)
    shown = open_page(browser, out)
    shown.wait(f"{DRAWN} === {FIGURES}")
    curves = shown.page.locator(f"#{SPIKES} .scatterlayer .trace").count()
    assert (curves, shown.complaints) == (runs, [])
    shown.page.close()


def test_a_value_that_was_not_finite_is_drawn(opened: Opened) -> None:
    assert opened.page.locator(f"#{LOSS} .scatterlayer .trace").count() == 4


def test_without_scripts_verdicts_and_tables_are_there(browser: Browser, report: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator(".verdicts").is_visible()
    assert page.locator("noscript p").is_visible()
    assert not any(button.is_visible() for button in page.locator("button").all())
    page.close()
