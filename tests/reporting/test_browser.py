"""The page in a real browser: drawn, linked, quiet, and closed to the network."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from lengthen.reporting.html import write
from tests.reporting.logs import run, run_of

EVIL = "<script>alert(1)</script>"
# Of the standard panels.
STEP, TOKEN, LOSS, SPIKES, PROBE, LENGTH = (f"figure-{number}" for number in (0, 1, 3, 4, 5, 9))
DRAWN = "document.querySelectorAll('.js-plotly-plot .scatterlayer').length > 0"
RANGE = "id => document.querySelector(`#${id} .plot`)._fullLayout.xaxis.range"
VISIBLE = "id => document.querySelector(`#${id} .plot`)._fullData.map(trace => trace.visible)"


@dataclass
class Opened:
    """A page, and all that it did behind the reader's back."""

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

    def show(self, figure: str) -> None:
        """Scroll to a figure and wait until it is drawn."""
        self.page.locator(f"#{figure}").scroll_into_view_if_needed()
        self.page.wait_for_selector(f"#{figure} .main-svg")

    def scroll_through(self) -> None:
        """Pass every figure, as a reader does."""
        count = self.page.locator("figure").count()
        for number in range(count):
            self.show(f"figure-{number}")

    def drag(self, figure: str, start: float, stop: float, up: float = 0) -> None:
        """Drag over a plot from one share of its width to another, and up by one of its height."""
        self.show(figure)
        box = self.page.locator(f"#{figure} .nsewdrag").first.bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + start * box["width"], middle)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + stop * box["width"], middle - up * box["height"], steps=4)
        self.page.mouse.up()


def open_page(browser: Browser, path: Path, **context: Any) -> Opened:
    opened = Opened(browser.new_page(viewport={"width": 1280, "height": 1000}, **context))

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
    opened.wait(DRAWN)
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
    write(out, runs, title=EVIL, verdicts=[EVIL])
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
    for key in shared.page.locator(".key[aria-pressed=false]").all():
        key.click()
    shared.page.get_by_role("button", name="Reset zoom").click()
    shared.show(STEP)
    yield shared
    assert shared.complaints == []


def test_every_figure_is_drawn_when_it_comes_near(browser: Browser, report: Path) -> None:
    shown = open_page(browser, report)
    assert shown.page.locator(".js-plotly-plot").count() < 13
    shown.scroll_through()
    assert (shown.page.locator(".js-plotly-plot").count(), shown.complaints) == (13, [])
    shown.page.close()


def test_f49_hostile_names_show_as_text(opened: Opened) -> None:
    assert opened.page.locator("h1").inner_text() == EVIL
    assert opened.page.locator(".verdicts li").inner_text() == EVIL
    assert opened.page.locator(".key").first.inner_text().strip() == EVIL
    opened.page.locator(f"#{STEP} .nsewdrag").first.hover()
    assert opened("document.querySelectorAll('script').length") == 3


def test_a_zoom_moves_the_figures_with_the_same_axis_alone(opened: Opened) -> None:
    opened.show(LENGTH)
    opened.show(TOKEN)
    tokens = opened(RANGE, TOKEN)
    opened.drag(STEP, 0.25, 0.5)
    low, high = opened(RANGE, STEP)
    assert 30 < low < 70 < high < 120
    assert opened(RANGE, TOKEN) == tokens
    opened.show(LENGTH)
    opened.wait(f"id => ({RANGE})(id)[1] < 120", LENGTH)
    assert opened(RANGE, LENGTH) == pytest.approx([low, high])


def test_figures_in_view_follow_a_zoom_at_once(opened: Opened) -> None:
    opened.show(PROBE)
    opened.drag(SPIKES, 0.25, 0.5)
    opened.wait(f"id => ({RANGE})(id)[1] < 120", PROBE)
    assert opened(RANGE, PROBE) == pytest.approx(opened(RANGE, SPIKES))


def test_a_double_click_shows_everything_again(opened: Opened) -> None:
    height = f"document.querySelector('#{STEP} .plot')._fullLayout.yaxis.range"
    whole = opened(height)
    opened.drag(STEP, 0.25, 0.5, up=0.4)
    assert opened(height) != whole
    box = opened.page.locator(f"#{STEP} .nsewdrag").first.bounding_box()
    assert box is not None
    opened.page.mouse.dblclick(box["x"] + 100, box["y"] + 100)
    opened.wait(f"id => ({RANGE})(id)[1] > 190", STEP)
    assert opened(height) == whole
    opened.drag(STEP, 0.25, 0.5)
    opened.page.get_by_role("button", name="Reset zoom").press("Enter")
    opened.wait(f"id => ({RANGE})(id)[1] > 190", STEP)


def test_a_zoom_is_kept_on_a_logarithmic_axis(opened: Opened) -> None:
    opened.drag(STEP, 0.25, 0.5)
    low, high = opened(RANGE, STEP)
    opened.page.get_by_role("button", name="log x: Validation perplexity by step").click()
    assert [10**x for x in opened(RANGE, STEP)] == pytest.approx([low, high])
    opened.page.get_by_role("button", name="log x: Validation perplexity by step").click()


def test_axes_turn_logarithmic_and_back(opened: Opened) -> None:
    button = opened.page.get_by_role("button", name="log y: Validation perplexity by step")
    kind = f"document.querySelector('#{STEP} .plot')._fullLayout.yaxis.type"
    for state in (("linear", "false"), ("log", "true")):
        button.click()
        assert (opened(kind), button.get_attribute("aria-pressed")) == state


def test_a_key_hides_its_curves_in_all_figures(opened: Opened) -> None:
    opened.page.locator(".key").first.click()
    for figure in (STEP, LENGTH):
        opened.show(figure)
        opened.wait(f"id => !({VISIBLE})(id)[0]", figure)
        assert opened(VISIBLE, figure) == [False, True]


def test_the_csv_has_the_points_of_the_figure(opened: Opened) -> None:
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name="CSV: Validation perplexity by step").click()
    assert download.value.suggested_filename == "validation-perplexity-by-step.csv"
    note, *lines = download.value.path().read_text(encoding="utf-8").splitlines()
    assert note == "# at most 2000 points a curve, 6 significant digits"
    head, *rows = list(csv.reader(lines))
    assert head == ["curve", "step", "perplexity"]
    shown = opened(f"document.querySelector('#{STEP} .plot').data[0].y")
    assert [float(y) for name, _, y in rows if name == EVIL] == shown
    # No spreadsheet takes the other name for a formula.
    assert {name for name, _, _ in rows} == {EVIL, '\'=plain, "b"'}


def test_dark_and_light_follow_the_system_and_the_button(browser: Browser, report: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.querySelector('.xtitle')).fill"
    shown = open_page(browser, report, color_scheme="dark")
    dark = shown(paper), shown(text)
    shown.page.get_by_role("button", name="Light").click()
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
    assert shown.page.locator(".js-plotly-plot").count() == 13
    assert shown("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not any(button.is_visible() for button in shown.page.locator("button").all())
    assert shown.page.locator(".printed").first.is_visible()
    assert shown.complaints == []
    shown.page.close()


@pytest.mark.parametrize("runs", [1, 30])
def test_a_page_works_with_one_run_and_with_thirty(
    browser: Browser, tmp_path: Path, runs: int
) -> None:
    out = tmp_path / "report.html"
    write(out, [run(f"variant-{n}", 2000) for n in range(runs)], title="t", verdicts=["v"] * runs)
    shown = open_page(browser, out)
    shown.show(SPIKES)
    curves = shown.page.locator(f"#{SPIKES} .scatterlayer .trace").count()
    assert (curves, shown.complaints) == (runs, [])
    shown.page.close()


def test_a_value_that_was_not_finite_is_drawn(opened: Opened) -> None:
    opened.show(LOSS)
    assert (
        opened.page.locator(f"#{LOSS} .overplot .trace, #{LOSS} .scatterlayer .trace").count() == 4
    )


def test_without_scripts_verdicts_and_tables_are_there(browser: Browser, report: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator(".verdicts").is_visible()
    assert page.locator("noscript p").is_visible()
    assert not any(button.is_visible() for button in page.locator("button").all())
    page.close()
