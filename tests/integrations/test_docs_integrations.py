"""The page on integrations, held to the code: arguments, settings, names, lines of the examples."""

import ast
import importlib
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from lengthen.integrations.arguments import REQUIRED
from lengthen.integrations.plain import DataPlan
from tests.test_docs import FENCE, names_in, rows_of, section

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
PYTHON = [body for language, body in FENCE.findall(PAGE) if language == "python"]


def table(heading: str) -> dict[str, list[str]]:
    return {names_in(row[0])[0]: row[1:] for row in rows_of(section(PAGE, heading))}


def test_every_argument_that_is_refused_is_there_with_its_value() -> None:
    documented = {
        name: ast.literal_eval(names_in_order(cells[0])[0])
        for name, cells in table("## The arguments").items()
    }
    assert documented.pop("num_train_epochs") == 1
    assert documented == {name: wanted for name, wanted, _ in REQUIRED}


def names_in_order(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_what_is_marked_as_a_default_is_one() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is a dev dependency")
    defaults = {one.name: one.default for one in fields(transformers.TrainingArguments)}
    wanted = {name: value for name, value, _ in REQUIRED}
    marked = {name for name, cells in table("## The arguments").items() if "(default)" in cells[0]}
    assert marked == {name for name in wanted if defaults[name] == wanted[name]}


def test_every_setting_of_a_course_is_there_with_its_default() -> None:
    words = {
        "full_length": "the pacing's end",
        "decay_tokens": "the budget",
        "wsd_decay_tokens": "a tenth of `decay_tokens`",
    }

    def default(field: Any) -> str:
        value = "required" if field.default is MISSING else f"`{field.default!r}`"
        return words.get(field.name, value.replace("'", '"'))

    documented = {name: cells[0] for name, cells in table("## The plan").items()}
    assert documented == {field.name: default(field) for field in fields(DataPlan)}


def test_what_the_examples_import_exists() -> None:
    imports = [
        node
        for body in PYTHON
        for node in ast.walk(ast.parse(body))
        if isinstance(node, ast.ImportFrom)
    ]
    assert len(imports) >= 4
    for node in imports:
        module = importlib.import_module(node.module or "")
        assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("name", ["plain_loop", "transformers_trainer"])
def test_the_lines_of_an_example_are_counted(name: str) -> None:
    lines = len((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines())
    counts = re.findall(rf"{name}\.py\)\s+(?:is a\s+whole script of|has) (\d+)\s+lines", PAGE)
    assert counts == [str(lines)]
