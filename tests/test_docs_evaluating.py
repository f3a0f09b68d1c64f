"""The page on evaluating and the file of results, held to the code."""

from dataclasses import fields

import pytest

from lengthen.evaluate.judge import ALL, HARNESS, VALID
from lengthen.evaluate.outcome import Curve, Measure, Outcome
from lengthen.evaluate.results import Result
from lengthen.evaluate.tasks import TASKS
from tests.test_docs import DOCS, names_in, options_of, read, rows_of, section

PAGE = read(DOCS / "evaluating.md")
FILES = section(read(DOCS / "files.md"), "## Evaluations")


def test_every_option_is_explained() -> None:
    explained = [names_in(row[0])[0] for row in rows_of(section(PAGE, "## Ask"))]
    options = [name for name in options_of("eval") if name.startswith("--")]
    assert sorted(explained) == sorted(set(options) - {"--help"})


def test_every_task_is_listed() -> None:
    listed = [name for row in rows_of(section(PAGE, "## Tasks")) for name in names_in(row[0])]
    assert sorted(listed) == sorted([VALID, *TASKS, f"{HARNESS}NAME"])
    assert f"`{ALL}`" in section(PAGE, "## Ask")


@pytest.mark.parametrize("kind", [Result, Outcome])
def test_every_field_of_a_result_is_explained(kind: type[Result] | type[Outcome]) -> None:
    explained = {names_in(row[0])[0] for row in rows_of(FILES)}
    assert {field.name for field in fields(kind)} <= explained
    assert explained == {field.name for one in (Result, Outcome) for field in fields(one)}


@pytest.mark.parametrize(("name", "kind"), [("measures", Measure), ("curves", Curve)])
def test_so_is_every_field_of_its_figures(name: str, kind: type[Measure] | type[Curve]) -> None:
    (row,) = [row for row in rows_of(FILES) if row[0] == f"`{name}`"]
    assert names_in(row[1]) == [field.name for field in fields(kind)]
