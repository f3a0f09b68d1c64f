"""Questions whose answer is free text."""

import json
from pathlib import Path
from typing import Any

import pytest

from lengthen.evaluation.answers import STOPS, Item, triviaqa, webqs
from lengthen.evaluation.generate import generate
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.requests import Request
from lengthen.evaluation.scoring import Score
from lengthen.util.errors import SettingError
from tests.evaluation.made import tiny_subject

SUBJECT = tiny_subject(length=128)


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("text", ["Paris", " paris ", "P.a.r.i.s!"])
def test_case_and_punctuation_do_not_count(text: str) -> None:
    assert Item("Where", ("London", "Paris")).is_right(text)


@pytest.mark.parametrize("text", ["", "Pari", "Paris France"])
def test_another_answer_is_wrong(text: str) -> None:
    assert not Item("Where", ("London", "Paris")).is_right(text)


def test_trivia_is_answered_greedily_up_to_a_stop(tmp_path: Path) -> None:
    prompt = tuple(b"Question: who??\nAnswer:")
    (answer,) = generate(SUBJECT, [prompt], stops=STOPS, most=32)
    rows = [
        {"question": "who?", "answer": {"aliases": ["somebody", answer]}},
        {"question": "who?", "answer": {"aliases": ["somebody"]}},
    ]
    outcome = triviaqa(SUBJECT, Wanted(sets=written(tmp_path, "triviaqa.jsonl", rows)))
    assert (outcome.items, outcome.measures[0].value) == (2, 0.5)
    assert outcome.measures[0].chance == 0


@pytest.mark.parametrize(("greedy", "accuracy"), [(" zz", 1), (" z", 0), ("", 0)])
def test_a_web_question_is_right_if_greedy_decoding_begins_with_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, greedy: str, accuracy: int
) -> None:
    def scored(_: object, requests: list[Request], __: str) -> list[Score]:
        return [Score(1.0, bytes(each.continuation) == greedy.encode(), 1) for each in requests]

    monkeypatch.setattr("lengthen.evaluation.items.score", scored)
    rows = [{"question": "who", "answers": ["zz", "yy"]}]
    outcome = webqs(SUBJECT, Wanted(sets=written(tmp_path, "webqs.jsonl", rows)))
    assert (outcome.items, outcome.measures[0].value) == (1, accuracy)


def test_an_answer_that_another_begins_with_is_not_asked_for(tmp_path: Path) -> None:
    def tokens(answers: list[str]) -> int:
        rows = [{"question": "who", "answers": answers}]
        return webqs(SUBJECT, Wanted(sets=written(tmp_path, "webqs.jsonl", rows))).tokens

    assert tokens(["ab", "abc", "x"]) == tokens(["ab", "x"])


def test_a_model_without_room_for_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="triviaqa needs a full length above 64"):
        triviaqa(tiny_subject(), Wanted(sets=tmp_path))
