"""Every table that a command prints, of real and tiny results, on screens of three widths.

A new command joins by a line in COMMANDS.
"""

import ast
import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

import lengthen
from lengthen.cli import commands
from lengthen.cli.main import main
from lengthen.config.schema import Tables
from lengthen.data.store import Store
from lengthen.experiments import demo
from lengthen.experiments.tune.problem import Problem, define_problem
from lengthen.experiments.tune.search import Setting
from lengthen.reporting.watch import _facts, _views, drawn
from lengthen.run.directory import open_run
from lengthen.training.start import train
from lengthen.util import tables
from lengthen.util.tables import Table, text_lines
from tests.conftest import Configure
from tests.experiments import conftest as comparing
from tests.experiments.test_demo import TINY
from tests.experiments.tune.conftest import Tuned

WIDTHS = (60, 80, 120)
GRID = "\n[[grid]]\noptimizer.learning_rate = [0.001, 0.003, 0.01]\n"
Words = list[str]


@dataclass(frozen=True)
class World:
    """A store, a text and a run to make tables of, and a folder for more."""

    folder: Path
    store: Path
    text: Path
    run: Path
    configured: Configure

    def settings(self, name: str, **tables: dict[str, object]) -> str:
        path = self.folder / name
        path.write_text(self.configured(**tables).to_toml(), encoding="utf-8")
        return str(path)


def prepare(world: World) -> Words:
    return ["prepare", str(world.text), "--tokenizer", "bytes", "--out", str(world.folder / "new")]


def training(world: World) -> Words:
    return ["train", world.settings("t.toml"), "--out", str(world.folder / "trained"), "--quiet"]


def plan(world: World) -> Words:
    files = [world.settings("a.toml"), world.settings("b.toml", pacing={"kind": "constant"})]
    return ["plan", *files, "--flops", "1G", "--ranks", "2,8"]


def compare(world: World) -> Words:
    text = comparing.FILE.format(store=world.store).replace("[0, 1, 2]", "[0, 1]") + GRID
    file = world.folder / "small.toml"
    file.write_text(text, encoding="utf-8")
    return ["compare", str(file), "--out", str(world.folder / "compared"), "--quiet"]


def tune(world: World) -> Words:
    def asked(*, aggressive: bool = False, **asked: Tables) -> Problem:
        config, store = world.configured(**asked), Store.open(world.store)
        return define_problem(config, store, starts=(), judge_tokens=512, aggressive=aggressive)

    folder = world.folder / "tuned"
    folder.mkdir()
    Tuned(world.configured, asked, folder)([Setting(16, 19)])  # trials are planted, not trained
    words = ["--judge-tokens", "512", "--jobs", "1"]
    return ["tune", str(folder / "asked.toml"), "--out", str(folder / "out"), *words]


def demonstrate(world: World) -> Words:
    return ["demo", "--text", str(world.text), "--out", str(world.folder / "demo")]


# What each command is asked for; None where it prints no table: a model's own text, TOML.
COMMANDS: dict[str, Callable[[World], Words] | None] = {
    "demo": demonstrate,
    "prepare": prepare,
    "recipes": lambda _: ["recipes"],
    "settings": lambda _: ["settings"],
    "train": training,
    "resume": lambda w: ["resume", str(w.run), "--quiet"],
    "branch": lambda w: [
        *("branch", str(w.run), "--out", str(w.folder / "branched")),
        *("--quiet", "--budget.epochs", "2"),
    ],
    "compare": compare,
    "tune": tune,
    "eval": lambda w: ["eval", str(w.run), "--tasks", "valid", "--limit", "4"],
    "export": lambda w: ["export", str(w.run), "--out", str(w.folder / "hf")],
    "import": lambda w: ["import", str(w.folder / "hf"), "--out", str(w.folder / "imported")],
    "import-config": None,
    "launch": None,
    "plan": plan,
    "report": lambda w: ["report", str(w.run), str(w.folder / "compared/runs")],
    "watch": None,
    "sample": None,
    "verify": lambda w: ["verify", str(w.run)],
    "push": None,
    "pull": None,
}


@dataclass(frozen=True)
class Printed:
    """What a command printed: through the renderer, and in all."""

    parts: list[Table | str]
    out: str


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, store: Path, text: str, configured: Configure
) -> World:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "text.txt").write_text(text, encoding="utf-8")
    pacing = {"kind": "adaptive", "start": 8, "every": 2}
    train(configured(pacing=pacing), folder / "run", quiet=True)
    return World(folder, store, folder / "text.txt", folder / "run", configured)


@pytest.fixture(scope="module")
def printed(world: World) -> dict[str, Printed]:
    """Each command's output, every one carried out once, on results of those before."""
    known = world.folder / "known"
    known.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SETTINGS", TINY)
        comparing.train_here(patch, known, {})
        asked = {name: words for name, words in COMMANDS.items() if words is not None}
        return {name: recorded(patch, words(world)) for name, words in asked.items()}


def recorded(patch: pytest.MonkeyPatch, words: Words) -> Printed:
    parts: list[Table | str] = []

    def recording(shown: Iterable[Table | str], width: int | None = None) -> Iterator[str]:
        parts.extend(own := list(shown))
        return text_lines(own, width)

    with redirect_stdout(io.StringIO()) as out:
        patch.setattr(tables, "text_lines", recording)
        assert main(words) == 0
        patch.setattr(tables, "text_lines", text_lines)
    return Printed(parts, out.getvalue())


def squeezed(text: str) -> str:
    return " ".join(text.split())


def must_be_whole(parts: list[Table | str], lines: list[str], width: int) -> None:
    """All cells are in the lines, and none of those is wider than the screen, but for one word."""
    shown = squeezed(" ".join(lines))
    for table in (part for part in parts if isinstance(part, Table)):
        for cell in (cell for row in table.rows for cell in row):
            assert squeezed(cell) in shown
    for line in lines:
        assert len(line) <= width or " " not in line.strip() or "lengthen " in line, line


def test_every_command_is_asked_for_its_tables() -> None:
    assert set(COMMANDS) == set(commands.COMMANDS)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_cell_is_whole_on_a_screen(printed: dict[str, Printed], width: int) -> None:
    for name, own in printed.items():
        assert any(isinstance(part, Table) for part in own.parts) or name in ("prepare", "verify")
        must_be_whole(own.parts, list(text_lines(own.parts, width)), width)


def test_in_a_pipe_each_row_is_a_line_of_its_cells(printed: dict[str, Printed]) -> None:
    for own in printed.values():
        lines = {tuple(re.split(r" {2,}", line.strip())) for line in own.out.splitlines()}
        for table in (part for part in own.parts if isinstance(part, Table)):
            for row in table.rows:
                assert tuple(filter(None, map(squeezed, row))) in lines


def test_no_command_prints_a_table_but_through_the_renderer(printed: dict[str, Printed]) -> None:
    for own in printed.values():
        rendered = set(text_lines(own.parts))
        assert not [
            line for line in own.out.splitlines() if "  " in line.strip() and line not in rendered
        ]


def test_no_other_file_pads_text_to_columns_or_makes_a_table_of_rich() -> None:
    package = Path(lengthen.__file__).parent
    pads = re.compile(r"""\.[lr]just\(|\.center\(|import.* Table as|from rich\.(table|columns)""")
    for path in package.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        formats = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FormattedValue))
        specs = [ast.unparse(one.format_spec) for one in formats if one.format_spec]
        assert not pads.search(source), path
        assert not [spec for spec in specs if re.search("[<>^]", spec)], path


@pytest.mark.parametrize("width", WIDTHS)
def test_a_run_that_is_watched_is_whole(world: World, width: int) -> None:
    view = next(_views(open_run(world.run)))
    lines = drawn([view], width).splitlines()
    assert all(len(line) <= width for line in lines)
    facts = [text for _, text in _facts(view)] + list(view.summary.events)
    assert all(squeezed(text) in squeezed(" ".join(lines)) for text in facts)
