"""The public API: each name has an example that runs and is on its page; a misuse is one line."""

import doctest
import html
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lengthen
from lengthen.util.errors import DataError, LengthenError, SettingError
from lengthen.util.tables import Printable, as_text
from scripts.api_page import PAGE, SECTIONS, page
from tests.ways_out import takes

SMALL = {"model": {"layers": 1, "width": 16, "heads": 2}, "budget.tokens": 20_000}
API: Any = lengthen  # what a user calls wrongly, no type checker sees


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A directory with what the examples have: some text, a token store and a small run."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(store, folder / "store")
    (folder / "books").mkdir()
    (folder / "books" / "one.txt").write_text("It was a dark night.\n" * 2000, encoding="utf-8")
    settings = {**SMALL, "evaluation.tokens": 2000}
    lengthen.train(
        "laptop-2min", folder / "runs/first", data=folder / "store", settings=settings, quiet=True
    )
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that directory as the working directory."""
    folder = shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", lengthen.__all__)
def test_every_public_name_has_an_example_that_runs(name: str, here: Path) -> None:
    text = inspect.getdoc(getattr(lengthen, name)) or ""
    names = {"lengthen": lengthen, "torch": torch}
    example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert example.examples
    lines: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=lines.append)
    assert result.failed == 0, "".join(lines)


def test_the_page_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m scripts.api_page"
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(lengthen.__all__)


def test_no_public_name_is_a_folder_of_the_package() -> None:
    folders = {path.name for path in Path(lengthen.__file__).parent.iterdir() if path.is_dir()}
    assert not folders & set(lengthen.__all__)
    assert set(lengthen.__all__) < set(dir(lengthen))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = API.trian


def test_the_package_is_imported_without_anything_heavy() -> None:
    heavy = "torch numpy pydantic rich tokenizers importlib.metadata"
    code = f"import sys, lengthen; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def train(*arguments: object, **options: object) -> Callable[[], object]:
    return lambda: API.train(*arguments, **{"data": "store", "out": "out", **options})


MISTAKES: dict[str, tuple[type[LengthenError], str, Callable[[], object]]] = {
    "a recipe that is none": (SettingError, "did you mean 'laptop-2min'?", train("laptop-3min")),
    "a number as recipe": (SettingError, "recipe: must be a path, got 3", train(3)),
    "no path to write to": (SettingError, "out: must be a path", train("laptop-2min", out=None)),
    "settings in a list": (
        SettingError,
        "settings: must be a dictionary, such as",
        train("laptop-2min", settings=["pacing.start"]),
    ),
    "a setting that is none": (
        SettingError,
        "pacing.strat: no such setting, got 8; did you mean 'start'?",
        train("laptop-2min", settings={"pacing.strat": 8}),
    ),
    "a table that is none": (
        SettingError,
        "pacings.start: no such setting, got 8; use pacing.start",
        train("laptop-2min", settings={"pacings": {"start": 8}}),
    ),
    "another word for resume": (
        SettingError,
        'resume: must be "auto" or None, got True',
        train("laptop-2min", resume=True),
    ),
    "no store": (SettingError, "data.path: is missing", train("laptop-2min", data=None)),
    "a store that is missing": (DataError, "no token store", train("laptop-2min", data="nowhere")),
    "a run that exists": (
        SettingError,
        "must be a new or empty directory",
        train("laptop-2min", out="runs/first"),
    ),
    "no run to resume": (SettingError, "must be a run's", lambda: API.resume("store")),
    "no run to load": (SettingError, "must be a run", lambda: API.load("store")),
    "nothing to plan": (SettingError, "recipes: must be at least one", lambda: API.plan()),
    "a speed that is none": (
        SettingError,
        "--flops: must be a whole number",
        lambda: API.plan("laptop-2min", data="store", flops="fast"),
    ),
    "ranks in words": (
        SettingError,
        "--ranks: must be whole numbers from 2",
        lambda: API.plan("laptop-2min", data="store", ranks="8"),
    ),
    "no model to evaluate": (
        SettingError,
        "models: must be at least one path",
        lambda: API.evaluate([], "valid"),
    ),
    "no such task": (
        SettingError,
        "did you mean 'valid'?",
        lambda: API.evaluate("runs/first", "vald"),
    ),
    "no such precision": (
        SettingError,
        "precision: must be",
        lambda: API.evaluate("runs/first", "valid", precision="fp8"),
    ),
    "no run to report": (SettingError, "no such run", lambda: API.report("nowhere")),
    "a page that is none": (
        SettingError,
        "out: must be a path, got 4",
        lambda: API.report("runs/first", out=4),
    ),
    "a loss in words": (
        SettingError,
        "--losses: must be finite numbers",
        lambda: API.report("runs/first", losses=["5"]),
    ),
    "no log": (SettingError, "has no metrics.jsonl", lambda: API.read_metrics("store")),
    "a store in no place": (SettingError, "path: must be a path", lambda: API.Store.open(None)),
    "no path to load": (SettingError, "run: must be a path, got 7", lambda: API.load(7)),
}


@takes("pip install pandas")
def test_a_frame_without_pandas_says_what_to_install(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = lengthen.read_metrics("runs/first")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SettingError, match=r"^to_pandas: needs the .*; pip install pandas$"):
        metrics.to_pandas()


def test_a_frame_has_a_row_for_each_record(here: Path) -> None:
    pytest.importorskip("pandas", reason="pandas comes with lm-eval, a dev dependency")
    metrics = lengthen.read_metrics(here / "runs/first/metrics.jsonl")
    frame = metrics.to_pandas()
    assert len(frame) == len(metrics.records)
    steps = frame[frame.kind == "step"]
    assert steps.length.tolist() == [step.length for step in metrics.steps]
    assert frame[frame.kind == "event"].event.tolist() == [one.name for one in metrics.events]


def test_a_call_prints_nothing_on_the_standard_output(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = lengthen.plan("laptop-2min", "laptop-2min-baseline", data="store", flops="0.1T")
    lengthen.train("laptop-2min", "runs/again", data="store", settings=SMALL)
    report = lengthen.report(["runs/first", "runs/again"])
    assert capsys.readouterr().out == ""
    assert "laptop-2min-baseline" in str(plans)
    assert "again: " in str(report)


def test_a_notebook_shows_a_report_with_its_figures(here: Path) -> None:
    report = lengthen.report("runs/first", figures="figures")
    shown = report._repr_html_()
    assert shown.startswith(f"<pre>{html.escape(str(report))}</pre>")
    inline = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)">', shown)
    files = sorted(Path("figures").glob("*.svg"))
    assert [b64decode(one) for one in inline] == [file.read_bytes() for file in files]
    assert len(files) > 3


def test_what_a_prompt_shows_of_a_result_is_its_text_and_of_a_store_or_a_model_no_wall(
    here: Path,
) -> None:
    report = lengthen.report("runs/first")
    assert repr(report) == str(report) == as_text(report.parts)
    for module in pkgutil.walk_packages(lengthen.__path__, "lengthen."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for kind in Printable.__subclasses__():
        assert kind.__repr__ is Printable.__repr__
    for value in (lengthen.Store.open("store"), lengthen.load("runs/first")):
        assert len(repr(value).splitlines()) < 30
        assert not {"sha256", "vocab", "learning_rate"} & set(re.findall(r"\w+", repr(value)))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_misuse_is_one_line(name: str, here: Path) -> None:
    kind, text, call = MISTAKES[name]
    before = sorted(here.rglob("*"))
    with pytest.raises(kind) as caught:
        call()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(here.rglob("*")) == before
