"""Each question, letter by letter; `test_agreement` holds them to lm-eval's on the real sets."""

from typing import Any

import pytest

from lengthen.evaluation.prompts import QUESTIONS, Item

LETTERS = {"label": ["A", "B"], "text": ["one", "two"]}
ANSWERED = {"choices": LETTERS, "answerKey": "B"}

ROWS: dict[str, tuple[dict[str, Any], str, list[str], int]] = {
    "hellaswag": (
        {
            "activity_label": "Baking",
            "ctx_a": "A cook [step] stirs.",
            "ctx_b": "then SHE",
            "endings": ["eats. [title] Well  done", "sleeps."],
            "label": "1",
        },
        "Baking: A cook stirs. Then she",
        [" eats.. Well done", " sleeps."],
        1,
    ),
    "piqa": (
        {"goal": "Open it", "sol1": "Pull.", "sol2": "Push.", "label": 0},
        "Question: Open it\nAnswer:",
        [" Pull.", " Push."],
        0,
    ),
    "arc_easy": (
        {"question": "How many?", **ANSWERED},
        "Question: How many?\nAnswer:",
        [" one", " two"],
        1,
    ),
    "openbookqa": (
        {"question_stem": "There are", **ANSWERED},
        "There are",
        [" one", " two"],
        1,
    ),
    "sciq": (
        {
            "support": "  Much text.",
            "question": "Who?",
            "correct_answer": "d",
            **{f"distractor{n}": letter for n, letter in ((1, "a"), (2, "b"), (3, "c"))},
        },
        "Much text.\nQuestion: Who?\nAnswer:",
        [" a", " b", " c", " d"],
        3,
    ),
    "boolq": (
        {"passage": "It is.", "question": "is it", "answer": True},
        "It is.\nQuestion: is it?\nAnswer:",
        [" no", " yes"],
        1,
    ),
    "copa": (
        {
            "premise": "It rained. ",
            "question": "effect",
            "choice1": "It got wet.",
            "choice2": "I slept.",
            "label": 0,
        },
        "It rained therefore",
        ["  it got wet.", "  i slept."],
        0,
    ),
    "cb": (
        {"premise": "He says so.", "hypothesis": "it is so", "label": 2},
        "He says so.\nQuestion: it is so. True, False, or Neither?\nAnswer:",
        [" True", " False", " Neither"],
        2,
    ),
    "rte": (
        {"sentence1": "It is so.", "sentence2": "It is.", "label": 0},
        "It is so.\nQuestion: It is. True or False?\nAnswer:",
        [" True", " False"],
        0,
    ),
    "sst2": (
        {"sentence": "good ", "label": 1},
        "good \nQuestion: Is this sentence positive or negative?\nAnswer:",
        [" negative", " positive"],
        1,
    ),
    "anli_r1": (
        {"premise": "It is so.", "hypothesis": "It is.", "label": 1},
        "It is so.\nQuestion: It is. True, False, or Neither?\nAnswer:",
        [" True", " Neither", " False"],
        1,
    ),
    "social_iqa": (
        {
            "context": "She won.",
            "question": "How is she?",
            "answerA": "glad",
            "answerB": "sad",
            "answerC": "old",
            "label": "1",
        },
        "Q: She won. How is she?\nA:",
        [" glad", " sad", " old"],
        0,
    ),
    "commonsense_qa": (
        {
            "question": " Where? ",
            "choices": {"text": ["in", "on", "at", "by", "to"]},
            "answerKey": "C",
        },
        "Question: Where?\nA. in\nB. on\nC. at\nD. by\nE. to\nAnswer:",
        [" A", " B", " C", " D", " E"],
        2,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_question_is_asked_as_lm_eval_asks_it(name: str) -> None:
    row, context, answers, right = ROWS[name]
    item = QUESTIONS[name].item(row)
    assert item.pairs == tuple((context, answer) for answer in answers)
    assert item.right == right
    # Characters, without the space that divides an answer from its question.
    assert item.lengths == tuple(len(answer) - 1 for answer in answers)


def test_winogrande_scores_the_same_end_behind_either_name() -> None:
    row = {"sentence": "He gave _ a tip.", "option1": "Ann", "option2": "Bo", "answer": "2"}
    item = QUESTIONS["winogrande"].item(row)
    assert item.pairs == (("He gave Ann", " a tip."), ("He gave Bo", " a tip."))
    assert item.right == 1
    assert item.solved == "He gave Bo a tip."


def test_every_set_has_its_row_here() -> None:
    alike = {"arc_challenge", "anli_r2", "anli_r3", "winogrande"}
    assert set(ROWS) | alike == set(QUESTIONS)


def test_a_right_answer_that_is_none_of_them_is_refused() -> None:
    with pytest.raises(ValueError, match="right answer -1 of 2"):
        Item((("a", "b"), ("a", "c")), -1, (1, 1))


def test_a_sentence_without_a_gap_is_refused() -> None:
    row = {"sentence": "No gap.", "option1": "Ann", "option2": "Bo", "answer": "2"}
    with pytest.raises(ValueError, match="no gap"):
        QUESTIONS["winogrande"].item(row)
