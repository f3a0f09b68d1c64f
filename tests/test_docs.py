"""The documentation, held to the code: what it names exists, and what exists is named."""

import doctest
import json
import re
import shlex
import signal
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

import lengthen
from lengthen.cli.command import Parser
from lengthen.cli.commands import COMMANDS
from lengthen.config.recipes import RECIPES
from lengthen.config.schema import KINDS, Config
from lengthen.core.ledger import Ledger
from lengthen.core.pacing import Pacing
from lengthen.exchange.export import NAMES
from lengthen.run.directory import RunPaths
from lengthen.run.environment import VARIABLES
from lengthen.run.metrics import read_metrics
from lengthen.run.records import EvalRecord, Measurement, ObservationRecord, ProbeRecord, StepRecord
from lengthen.training.import_pretrained import OPEN_SETTINGS
from lengthen.training.start import train
from lengthen.util import errors
from scripts import settings_page
from tests.conftest import Configure
from tests.naive_ledger import tokens_of
from tests.test_imports import ORDER

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
README = [path for path in [ROOT / "README.md"] if path.exists()]
ALL = [*README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
# A command stands at the start of a line, or behind a prompt, a pipe, a path or python -m.
COMMAND = re.compile(r"^(?:.*(?:[$|;/]|&&|-m) ?)?lengthen (.+)$")
DOTTED = re.compile(r"(?:--)?(([a-z]+)\.(?!(?:py|safetensors)$)[a-z_]+)(?:[ =].*)?")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
EXTRA = re.compile(r"(?:lengthen|\.)\[([a-z0-9,]+)\]'")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def by_name(path: Path) -> Any:
    return path.name


def prose(text: str) -> str:
    return FENCE.sub("", text)


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of any level."""
    _, _, rest = text.partition(f"\n{heading}\n")
    assert rest, f"no heading {heading!r}"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows_of(text: str) -> Iterator[list[str]]:
    """Yield the cells of every row of the tables in a text, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for line, below in pairwise([*lines, ""]):
        if not line.startswith("|---") and not below.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def extras() -> set[str]:
    """Return the names behind `pip install lengthen`, in brackets."""
    return set(tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"])


def names_in(cell: str) -> list[str]:
    return [name.strip('"') for name in SPAN.findall(cell)]


# Settings


def setting_names() -> set[str]:
    names = {
        f"{table}.{one}"
        for table, field in Config.model_fields.items()
        for one in getattr(field.annotation, "model_fields", {})
    }
    return names | {f"pacing.{one.name}" for kind in KINDS.values() for one in fields(kind)}


def test_the_page_on_settings_is_what_the_declarations_say() -> None:
    assert read(settings_page.PAGE) == settings_page.page(), "run python -m scripts.settings_page"


@pytest.mark.parametrize("path", ALL, ids=by_name)
def test_a_setting_that_is_named_exists(path: Path) -> None:
    matches = (DOTTED.fullmatch(span) for span in SPAN.findall(prose(read(path))))
    named = {match[1] for match in matches if match and match[2] in Config.model_fields}
    assert named <= setting_names()


def test_every_recipe_is_named() -> None:
    named = {
        name for row in rows_of(read(DOCS / "training.md")) for name in names_in(row[0])
    } & RECIPES.keys()
    assert named | {f"{name}-baseline" for name in named} == RECIPES.keys()


def test_every_pacing_has_a_worked_example() -> None:
    headings = HEADING.findall(read(DOCS / "concepts.md"))
    assert {f"`{name}`" for name in KINDS} <= set(headings)
    assert {kind.__name__ for kind in get_args(Pacing)} <= set(
        re.findall(r"import (\w+)", read(DOCS / "concepts.md"))
    )


# Command lines


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the words behind `lengthen` of every command line in code and in spans."""
    blocks = [body for language, body in FENCE.findall(text) if language in ("sh", "console", "")]
    lines = [line for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    lines += [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(text))]
    for line in lines:
        match = COMMAND.match(line.strip())
        words = shlex.split(match[1], comments=True) if match else []
        # A placeholder, or a sentence that begins with our name, is no command line.
        if words and re.fullmatch(r"[a-z]+(-[a-z]+)?|--\S+", words[0]):
            yield [word.strip("[]") for word in words]


def options_of(command: str) -> dict[str, Any]:
    parser = Parser()
    COMMANDS[command].arguments(parser)
    return {"--help": None, **parser._option_string_actions}


def strange_words(words: list[str]) -> list[str]:
    """Return what a command line names that does not exist."""
    command, rest = words[0], words[1:]
    if command.startswith("--"):
        return [] if command in ("--help", "--version") else [command]
    if command not in COMMANDS:
        return [command]
    known = set(options_of(command))
    if COMMANDS[command].takes_settings:
        known |= {f"--{name}" for name in setting_names()}
    options = [word.partition("=")[0] for word in rest if word.startswith("--")]
    strange = [option for option in options if option not in known]
    if command in ("train", "plan", "tune") and rest and re.fullmatch(r"[a-z0-9.-]+", rest[0]):
        recipe = rest[0]
        strange += [] if recipe in RECIPES or recipe.endswith(".toml") else [recipe]
    return strange


@pytest.mark.parametrize("path", ALL, ids=by_name)
def test_a_command_line_has_a_command_and_options_that_exist(path: Path) -> None:
    # The one mistake that is shown on purpose is the one whose answer is shown too.
    shown = "--pacing.strat"
    strange = {word for words in commands_in(read(path)) for word in strange_words(words)}
    assert strange <= {shown}


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_an_option_that_is_named_alone_exists(path: Path) -> None:
    alone = set(re.findall(r"`(--[a-z-]+)(?: [^`]*)?`", prose(read(path))))
    assert alone <= {"--version"} | {option for name in COMMANDS for option in options_of(name)}


def test_the_mistakes_that_these_tests_are_for_are_found() -> None:
    text = "```sh\n$ lengthen trian x\nlengthen train laptop-3min --outt r --run.sed 3\n```\n"
    found = [word for words in commands_in(text) for word in strange_words(words)]
    assert found == ["trian", "--outt", "--run.sed", "laptop-3min"]


def test_the_page_on_exchange_names_the_settings_of_a_model_that_stay_open() -> None:
    (line,) = re.findall("The folder decides every setting of .*", read(DOCS / "exchange.md"))
    assert set(re.findall("`(.+?)`", line)) == {"model", *OPEN_SETTINGS}


@pytest.mark.parametrize("command", ["export", "import"])
def test_the_page_on_exchange_has_every_option(command: str) -> None:
    text = read(DOCS / "exchange.md")
    assert [option for option in options_of(command) if option not in text] == ["--help"]


def test_the_page_on_exchange_has_every_file_of_an_export() -> None:
    rows = rows_of(section(read(DOCS / "exchange.md"), "## Export"))
    assert {names_in(row[0])[0] for row in rows} == NAMES


@pytest.mark.parametrize("path", ALL, ids=by_name)
def test_an_extra_that_is_named_exists(path: Path) -> None:
    assert {name for names in EXTRA.findall(read(path)) for name in names.split(",")} <= extras()


def test_the_first_page_has_every_extra() -> None:
    (listed,) = re.findall(
        r"^Extras, as in .*?\.$", read(ROOT / "README.md"), re.MULTILINE | re.DOTALL
    )
    assert set(names_in(listed.replace("\n", " "))[1:]) == extras() - {"dev"}


def test_the_loop_of_the_first_page_trains(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (loop,) = [
        body for language, body in FENCE.findall(read(ROOT / "README.md")) if language == "python"
    ]
    for large, small in {
        "1024": "16",
        "2000": "20",
        "rows=64": "rows=8",
        "500_000_000": "4_000",
    }.items():
        assert large in loop
        loop = loop.replace(large, small)
    (tmp_path / "store").symlink_to(store)
    monkeypatch.chdir(tmp_path)
    vocabulary = lengthen.Store.open("store").vocabulary
    model = torch.nn.Sequential(torch.nn.Embedding(vocabulary, 8), torch.nn.Linear(8, vocabulary))
    names = {
        "lengthen": lengthen,
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-2),
        "cross_entropy": torch.nn.functional.cross_entropy,
        "clip_grad_norm_": torch.nn.utils.clip_grad_norm_,
    }
    exec(loop, names)
    steps = lengthen.read_metrics("runs/mine").steps
    assert {step.length for step in steps} == {8, 16}
    losses = [step.loss or 9.0 for step in steps]
    assert min(losses[-3:]) < losses[0] - 0.3


def test_the_plain_loop_of_the_page_resumes_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the steps, saved; then the other half in what stands for a new process."""
    page = read(DOCS / "integrations.md")
    loop, save, resume = (
        next(body for language, body in FENCE.findall(page) if mark in body)
        for mark in ("from torch import nn", "states =", "torch.load(")
    )
    (tmp_path / "text.txt").write_text("To be, or not to be. " * 20_000)
    lengthen.prepare(tmp_path / "text.txt", tmp_path / "store-bytes", tokenizer="bytes")
    monkeypatch.chdir(tmp_path)
    made, trained = loop.split("for step, micro_batches", 1)
    trained = "for step, micro_batches" + trained.removesuffix("log.finish()\n")
    names: dict[str, Any] = {}
    exec(made + trained + "    if step.number == 30:\n        break\n" + save, names)
    names["log"].close()
    (parts,) = [line for line in save.splitlines() if line.startswith("parts")]
    again: dict[str, Any] = {}
    exec(made.replace(', RunLog("runs/mine", plan)', ", None") + parts + "\n" + resume, again)
    exec(trained + "log.finish()\n", again)
    rates = [step.lr for step in lengthen.read_metrics("runs/mine").steps]
    optimizer = torch.optim.AdamW(torch.nn.Linear(1, 1).parameters(), lr=1e-3)
    unbroken = again["plan"].lr_scheduler(optimizer)
    expected = []
    for _ in rates:
        expected += unbroken.get_last_lr()
        optimizer.step()
        unbroken.step()
    assert len(rates) > 60
    assert rates == expected


def test_every_command_is_shown() -> None:
    shown = {words[0] for path in ALL for words in commands_in(read(path))}
    assert COMMANDS.keys() <= shown


# Links


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    plain = re.sub(r"[^\w\- ]", "", heading.lower())
    return plain.replace(" ", "-")


@pytest.mark.parametrize("path", ALL, ids=by_name)
def test_a_link_leads_somewhere(path: Path) -> None:
    lost = []
    for target in LINK.findall(prose(read(path))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        anchors = map(slug, HEADING.findall(read(file))) if anchor and file.exists() else []
        if not file.exists() or (anchor and anchor not in anchors):
            lost.append(target)
    assert not lost


# Files, codes, examples


# The page on the API is made of docstrings, whose examples tests/test_api.py runs.
@pytest.mark.parametrize("path", [p for p in PAGES if p.name != "api.md"], ids=by_name)
def test_the_python_examples_print_what_they_say(path: Path) -> None:
    failed, _ = doctest.testfile(str(path), module_relative=False, encoding="utf-8")
    assert failed == 0


def test_the_drawing_of_the_ledger_is_what_the_ledger_does() -> None:
    ledger = Ledger.start(sequences=6, full_length=8, reuse_after=1)
    read_by: dict[tuple[int, int, int], str] = {}
    for step, (rows, length) in enumerate([(2, 3), (2, 3), (2, 3), (2, 8), (2, 8)], start=1):
        blocks, ledger = ledger.take(rows, length)
        read_by |= dict.fromkeys(tokens_of(blocks), str(step))
    for epoch, position in [*((0, position) for position in range(6)), (1, 0)]:
        digits = (read_by.get((epoch, position, place), ".") for place in range(8))
        assert f"sequence {position}  {' '.join(digits)}" in read(DOCS / "concepts.md")


@pytest.fixture(scope="module")
def run(configured: Configure, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    folder = tmp_path_factory.mktemp("documented") / "run"
    train(configured(budget={"tokens": 2000}, saving={"every_steps": 100}), folder, quiet=True)
    return RunPaths(folder)


def first_names(text: str) -> set[str]:
    return {name for row in rows_of(text) for name in names_in(row[0])}


@pytest.mark.parametrize("kind", [StepRecord, EvalRecord, ProbeRecord, ObservationRecord])
def test_the_page_on_files_has_every_field_of_a_measurement(kind: type[Measurement]) -> None:
    names = {field.name: field.default for field in fields(kind)}
    documented = first_names(section(read(DOCS / "files.md"), f"### `{names['kind']}`"))
    assert names.keys() == documented


def test_the_page_on_files_has_every_field_of_an_event(run: RunPaths) -> None:
    rows = rows_of(section(read(DOCS / "files.md"), "### `event`"))
    documented = {names_in(row[0])[0]: set(names_in(row[1])) for row in rows}
    for record in read_metrics(run.metrics).events:
        assert record.facts.keys() == documented[record.name]


def test_the_page_on_files_has_every_file_of_a_run_and_what_is_in_it(run: RunPaths) -> None:
    text = read(DOCS / "files.md")
    newest = sorted(run.checkpoints.iterdir())[-1]
    for path in [*run.root.iterdir(), *newest.iterdir()]:
        assert f"  {path.name}" in text
    state, environment = (
        json.loads(read(path)) for path in (newest / "state.json", run.environment)
    )
    assert first_names(section(text, "## Checkpoint")) == state.keys()
    assert first_names(section(text, "## Run directory")) - set(VARIABLES) == environment.keys()


def test_every_exit_code_is_in_the_table() -> None:
    rows = rows_of(section(read(DOCS / "training.md"), "## Exit codes"))
    classes = (one for one in vars(errors).values() if isinstance(one, type))
    codes = {one.exit_code for one in classes if issubclass(one, errors.LengthenError)}
    signals = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    assert {int(row[0]) for row in rows} == {0} | codes | signals


def test_the_layout_is_listed_in_the_order_of_imports() -> None:
    text = read(ROOT / "CONTRIBUTING.md")
    blocks = [body for _, body in FENCE.findall(text) if body.startswith("util ")]
    assert [line.split()[0] for line in blocks[0].splitlines()] == ORDER
