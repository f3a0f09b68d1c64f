"""The page as a file: complete, self-contained, and nothing from outside can act in it."""

import base64
import importlib
import json
import re
import sys
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lengthen.reporting.curves import COLOURS, Curve, Panel
from lengthen.reporting.html import write
from lengthen.reporting.html_figures import rounded
from lengthen.reporting.panels import points_per_curve
from lengthen.run.metrics import Metrics
from lengthen.util.errors import DataError, SettingError
from lengthen.util.tables import Table
from tests.reporting.logs import run, run_of
from tests.ways_out import takes

EVIL = "<script>alert(1)</script>&\u2028'\"</title></style><img src=http://x.example/ onerror=a()>"
TABLE = Table("Variants", ("variant", "loss"), (("baseline", "5.12 [5.0, 5.2]"),), note="5 seeds")
PANEL = Panel("Loss by rate", "rate", "nats", [Curve("baseline", [(0.001, 5.0), (0.01, 4.5)])])


@dataclass
class Read(HTMLParser):
    """What a browser would find in a page."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)  # innermost tag -> its texts

    def __post_init__(self) -> None:
        super().__init__()
        self.inside = "html"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = "html"

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.inside, [""])[-1] += data

    def attributes(self, *names: str) -> list[str]:
        return [a[name] or "" for _, a in self.tags for name in names if name in a]

    @property
    def figures(self) -> list[dict[str, Any]]:
        """The figures as plotly gets them, with the data of their traces and their layout."""
        scripts = [text for text in self.texts["script"] if "newPlot(" in text[:999]]
        return [_figure(text.partition("newPlot(")[2]) for text in scripts]


def _figure(arguments: str) -> dict[str, Any]:
    found, decoder = [], json.JSONDecoder()
    for _ in range(3):  # the id, the data and the layout
        value, end = decoder.raw_decode(arguments.lstrip(" ,\n"))
        arguments = arguments.lstrip(" ,\n")[end:]
        found.append(value)
    return {"data": found[1], "layout": found[2]}


def read(path: Path) -> Read:
    parser = Read()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def words(path: Path) -> str:
    """Return all text that a reader sees, tags taken out."""
    body = path.read_text(encoding="utf-8").split("</head>")[1]
    return re.sub(r"<[^>]*>", "", re.sub(r"<script>.*?</script>", "", body, flags=re.DOTALL))


def test_the_page_says_everything_in_its_order(out: Path) -> None:
    runs = [
        run("a", config={"optimizer": {"clip": 1.0}}, environment={"cores": 2}),
        run("b", config={"optimizer": {"clip": 0.5}}, environment={"cores": 2}),
    ]
    write(out, runs, title="My runs", verdicts=["b is better."], tables=[TABLE], panels=[PANEL])
    order = ["My runs", "2 runs, 60 steps", "b is better.", "5.12 [5.0, 5.2]", "5 seeds"]
    places = [words(out).index(text) for text in order]
    assert places == sorted(places)
    headings = [text.strip() for text in read(out).texts["h2"] + read(out).texts["h3"]]
    assert headings[:4] == [
        "Variants",
        "Settings that differ",
        "Environment of all runs",
        "Loss by rate",
    ]
    assert len(headings) == 3 + 14
    figures, folded = (out.read_text(encoding="utf-8").find(tag) for tag in ("<figure", "<details"))
    assert out.read_text(encoding="utf-8").find("Variants</h2>") < figures < folded


def test_nothing_is_fetched_from_anywhere(out: Path) -> None:
    write(out, [run("a")], title="t", tables=[TABLE])
    found = read(out)
    assert all(link.startswith("#") for link in found.attributes("src", "href", "srcset", "data"))
    assert "link" not in [tag for tag, _ in found.tags]
    assert not re.search(r"@import|url\(", "".join(found.texts["style"]))


def test_every_link_leads_somewhere(out: Path) -> None:
    write(out, [run("a", environment={"cores": 2})], title="t", tables=[TABLE, TABLE])
    found = read(out)
    places = found.attributes("id")
    assert len(places) == len(set(places))
    assert {link[1:] for link in found.attributes("href")} <= set(places)


def test_the_policy_allows_these_scripts_alone(out: Path) -> None:
    write(out, [run("a")], title="t")
    (policy,) = [a["content"] or "" for _, a in read(out).tags if "http-equiv" in a]
    scripts = read(out).texts["script"]
    hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{text}'" for text in hashes)
    assert policy.startswith(f"default-src 'none'; script-src {allowed}; ")


def test_the_plotting_script_is_there_once(out: Path) -> None:
    write(out, [run("a"), run("b")], title="t", panels=[PANEL])
    assert out.read_text(encoding="utf-8").count("* plotly.js v") == 1


@pytest.mark.parametrize("where", ["name", "title", "verdict", "table", "panel", "file", "family"])
def test_f49_text_from_outside_stays_text(out: Path, where: str) -> None:
    plain = [tag for tag, _ in _page_tags(out, {})]
    hostile = _page_tags(out, {where: EVIL})
    assert {tag for tag, _ in hostile} == set(plain)
    assert [tag for tag, _ in hostile].count("script") == plain.count("script")
    assert not [name for _, attributes in hostile for name in attributes if name.startswith("on")]


def _page_tags(out: Path, texts: dict[str, str]) -> list[tuple[str, dict[str, str | None]]]:
    name, file = texts.get("name", "a"), texts.get("file", "x")
    cell, panel = texts.get("table", "1"), texts.get("panel", "p")
    write(
        out,
        [
            run(name, config={file: {file: file}}, environment={file: [file]}),
            run("b", config={"x": {"x": "y"}}, environment={"cores": "z"}),
        ],
        title=texts.get("title", "t"),
        verdicts=[texts.get("verdict", "v")],
        tables=[Table(cell, (cell, cell), ((cell, cell),), note=cell)],
        panels=[Panel(panel, panel, panel, [Curve(panel, [(1, 2)])])],
        families={name: texts.get("family", "f")},
    )
    return read(out).tags


def test_f49_names_in_figures_are_text_for_plotly_too(out: Path) -> None:
    write(out, [run("<b>bold</b>")], title="t")
    trace = read(out).figures[0]["data"][0]
    assert (trace["name"], trace["meta"]) == ("&lt;b&gt;bold&lt;/b&gt;",) * 2


def test_plotly_accepts_every_figure(out: Path) -> None:
    lines = [
        {"kind": "step", "step": 1, "tokens": 8, "loss": 4.0},
        {"kind": "step", "step": 2, "tokens": 16, "loss": None, "length": 8},
    ]
    log = Panel("p", "x", "y", [Curve("c", [(1, 2)])], threshold=1.0, log_x=True)
    write(out, [run("a"), run_of(*lines)], title="t", panels=[log])
    objects = importlib.import_module("plotly.graph_objects")
    for shown in read(out).figures:
        objects.Figure({"data": shown["data"], "layout": shown["layout"]})


def test_a_value_that_was_not_finite_is_a_cross(out: Path) -> None:
    lines = [
        {"kind": "step", "step": 1, "tokens": 8, "loss": 4.0},
        {"kind": "step", "step": 2, "tokens": 16, "loss": None},
    ]
    write(out, [run_of(*lines)], title="t")
    line, cross = read(out).figures[0]["data"]
    assert (line["x"], line["y"], cross["x"], cross["yaxis"]) == ([8], [4], [16], "y2")


def test_a_family_has_one_colour_in_all_figures_and_one_key(out: Path) -> None:
    runs = [run(f"{name}/{seed}") for name in ("slw", "baseline") for seed in range(3)]
    families = {one.name: one.name.split("/")[0] for one in runs}
    write(out, runs, title="t", panels=[PANEL], families=families)
    found = read(out)
    traces = [trace for shown in found.figures for trace in shown["data"]]
    looks = {(trace["legendgroup"], trace["line"]["color"]) for trace in traces}
    assert looks == {("baseline", COLOURS[0]), ("slw", COLOURS[1])}
    keys = [
        [trace["name"] for trace in shown["data"] if trace["showlegend"]]
        for shown in found.figures[1:]
    ]
    assert keys == [["slw", "baseline"]] * 13


def test_what_was_not_recorded_is_named_in_one_line(out: Path) -> None:
    write(out, [run_of({"kind": "step", "step": 1, "tokens": 8, "loss": 4.0})], title="t")
    assert "Nothing was recorded for: Validation perplexity by token; " in words(out)
    assert len(read(out).figures) == 1


def test_a_log_with_damaged_lines_is_said(out: Path) -> None:
    whole = run("a")
    damaged = type(whole)("a", Metrics(whole.metrics.records, 3), {}, {})
    write(out, [damaged], title="t")
    assert "a: 3 lines of its log could not be read." in words(out)


def test_equal_input_gives_equal_bytes(out: Path, tmp_path: Path) -> None:
    for path in (out, tmp_path / "again.html"):
        write(path, [run("a"), run("b")], title="t", verdicts=["v"], tables=[TABLE])
    assert out.read_bytes() == (tmp_path / "again.html").read_bytes()


def test_text_that_no_encoding_has_is_replaced(out: Path) -> None:
    write(out, [run("a\udcff", environment={"command": ["\ud800"]})], title="\udfff")
    assert "<title>?</title>" in out.read_text(encoding="utf-8")


def test_curves_are_thinned_and_numbers_rounded(out: Path) -> None:
    third = Panel("p", "x", "y", [Curve("c", [(x + 1, x / 3) for x in range(5000)])])
    write(out, [run("a", 5000)], title="t", panels=[third])
    figures = read(out).figures
    assert max(len(trace["x"]) for shown in figures for trace in shown["data"]) <= 2000
    heights = figures[0]["data"][0]["y"]
    assert heights == [float(f"{y:.6g}") for y in heights]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1 / 3, 0.333333), (6_123_456_789, 6_123_456_789), (2.0, 2), (1.23456789e-7, 1.23457e-7)],
)
def test_whole_numbers_keep_their_digits(value: float, shown: float) -> None:
    assert rounded(value) == shown


def test_a_long_name_may_be_broken_after_its_parts_and_a_number_nowhere(out: Path) -> None:
    table = Table("t", ("run", "> 1.1"), (("slw/learning_rate=0.003/packages.torch", "1"),))
    write(out, [], title="t", tables=[table])
    page = out.read_text(encoding="utf-8")
    name = "slw/<wbr>learning_<wbr>rate=<wbr>0.003/<wbr>packages.<wbr>torch"
    assert f'<th scope="row">{name}</th>' in page
    assert "&gt; 1.1</th>" in page


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("baseline/learning_rate=0.003/seed-0", "baseline/learning_rate=0.003/<br>seed-0"),
        ("tokens-held, learning_rate=0.01", "tokens-held,<br>learning_rate=0.01"),
        ("of-a-name-of-forty-letters-abcd", "of-a-name-of-forty-letters-<br>abcd"),
        ("x" * 40, "x" * 30 + "<br>" + "x" * 10),
        ("short", "short"),
    ],
)
def test_a_legend_continues_a_long_name_after_a_part_of_it(
    out: Path, name: str, lines: str
) -> None:
    write(out, [run(name)], title="t")
    assert {trace["name"] for figure in read(out).figures for trace in figure["data"]} == {lines}


def test_figures_line_up_right_and_words_left(out: Path) -> None:
    rows = (("a", "1,234", "better"), ("b", "-", "worse"))
    write(out, [run("a")], title="t", tables=[Table("t", ("", "n", "w"), rows)])
    text = out.read_text(encoding="utf-8")
    assert '<td class="number">1,234</td><td>better</td>' in text


@pytest.mark.parametrize("path", ["folder.html", "missing/report.html"])
def test_a_place_that_can_be_no_file_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(SettingError, match="--out: must be a file in a directory that exists"):
        write(tmp_path / path, [run("a")], title="t")


@takes("the page needs the package plotly; install it with `pip install plotly`")
def test_f53_a_missing_plotly_is_one_line(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plotly", "plotly.io", "plotly.offline"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match="package plotly; install it with `pip install plotly`"):
        write(out, [run("a")], title="t")
    assert not out.exists()


def test_many_runs_share_the_points_of_a_page() -> None:
    assert [points_per_curve(runs) for runs in (0, 1, 12, 30, 1000)] == [2000, 2000, 2000, 800, 200]


def test_a_point_at_the_edge_and_the_name_of_a_threshold_are_drawn_whole(out: Path) -> None:
    write(out, [run("a")], title="t")
    for shown in read(out).figures:
        assert all(trace["cliponaxis"] is False for trace in shown["data"])
        heights = [shape["y0"] for shape in shown["layout"]["shapes"]]
        include = shown["layout"]["yaxis"].get("autorangeoptions", {"include": [0.0]})["include"]
        assert all(height < include[0] for height in heights)
