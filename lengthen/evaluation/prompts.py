"""How the items of the multiple-choice sets are asked.

Context and continuation are, character by character, those that lm-eval 0.4.13 gives its models for
the task of the same name, so that figures compare with published ones.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lengthen.evaluation.requests import Pair
from lengthen.evaluation.rows import Row
from lengthen.evaluation.sets import Place


@dataclass(frozen=True)
class Item:
    """A question, its possible answers, and which of them is right."""

    pairs: tuple[Pair, ...]  # context and continuation, one for each answer
    right: int
    lengths: tuple[int, ...]  # characters of each answer, without the space ahead of it

    def __post_init__(self) -> None:
        if not 0 <= self.right < len(self.pairs):
            raise ValueError(f"right answer {self.right} of {len(self.pairs)}")
        if 0 in self.lengths:
            raise ValueError(f"answer {self.lengths.index(0)} of {len(self.pairs)} is empty")

    @property
    def solved(self) -> str:
        """The question with its right answer: a shot."""
        return "".join(self.pairs[self.right])


@dataclass(frozen=True)
class Question:
    """A set, and how it is asked."""

    place: Place
    item: Callable[[Row], Item]
    normalised: bool = True  # whether the length of an answer means something


def _item(context: str, answers: Sequence[str], right: int | str) -> Item:
    pairs = tuple((context, f" {answer}") for answer in answers)
    return Item(pairs, int(right), tuple(len(answer) for answer in answers))


def _hellaswag(row: Row) -> Item:
    start = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return _item(_clean(start), [_clean(ending) for ending in row["endings"]], row["label"])


def _clean(text: str) -> str:
    """Take out what WikiHow's pages left in HellaSwag: [title], [step] and doubled spaces."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _piqa(row: Row) -> Item:
    return _item(_asked(row["goal"]), [row["sol1"], row["sol2"]], row["label"])


def _winogrande(row: Row) -> Item:
    """Both answers stand in the context: what follows the gap is scored behind each."""
    before, gap, after = row["sentence"].partition("_")
    if not gap:
        raise ValueError("the sentence has no gap")
    contexts = [before + row["option1"], before + row["option2"]]
    pairs = tuple((context, f" {after.strip()}") for context in contexts)
    return Item(pairs, int(row["answer"]) - 1, tuple(len(context) for context in contexts))


def _arc(row: Row) -> Item:
    return _item(_asked(row["question"]), row["choices"]["text"], _by_label(row))


def _openbookqa(row: Row) -> Item:
    return _item(row["question_stem"], row["choices"]["text"], _by_label(row))


def _by_label(row: Row) -> int:
    right: int = row["choices"]["label"].index(row["answerKey"].lstrip())
    return right


def _sciq(row: Row) -> Item:
    answers = [row["distractor1"], row["distractor2"], row["distractor3"], row["correct_answer"]]
    return _item(f"{row['support'].lstrip()}\n{_asked(row['question'])}", answers, 3)


def _boolq(row: Row) -> Item:
    # The set was published twice, by itself and in SuperGLUE.
    right = row["answer"] if "answer" in row else row["label"]
    return _item(f"{row['passage']}\n{_asked(row['question'] + '?')}", ["no", "yes"], right)


def _copa(row: Row) -> Item:
    word = {"cause": "because", "effect": "therefore"}[row["question"]]
    answers = [row["choice1"], row["choice2"]]
    # Two spaces ahead of an answer, of which one is counted: so lm-eval asks it.
    answers = [f" {answer[0].lower()}{answer[1:]}" for answer in answers]
    return _item(f"{row['premise'].strip()[:-1]} {word}", answers, row["label"])


def _cb(row: Row) -> Item:
    question = f"{row['hypothesis']}. True, False, or Neither?"
    return _item(
        f"{row['premise']}\n{_asked(question)}", ["True", "False", "Neither"], row["label"]
    )


def _rte(row: Row) -> Item:
    question = f"{row['sentence2']} True or False?"
    return _item(f"{row['sentence1']}\n{_asked(question)}", ["True", "False"], row["label"])


def _sst2(row: Row) -> Item:
    question = _asked("Is this sentence positive or negative?")
    return _item(f"{row['sentence']}\n{question}", ["negative", "positive"], row["label"])


def _anli(row: Row) -> Item:
    question = f"{row['hypothesis']} True, False, or Neither?"
    return _item(
        f"{row['premise']}\n{_asked(question)}", ["True", "Neither", "False"], row["label"]
    )


def _social_iqa(row: Row) -> Item:
    answers = [row["answerA"], row["answerB"], row["answerC"]]
    return _item(f"Q: {row['context']} {row['question']}\nA:", answers, int(row["label"]) - 1)


def _commonsense_qa(row: Row) -> Item:
    texts = row["choices"]["text"]
    lines = [f"{letter}. {text}" for letter, text in zip("ABCDE", texts, strict=True)]
    context = "\n".join([f"Question: {row['question'].strip()}", *lines, "Answer:"])
    return _item(context, "ABCDE", "ABCDE".index(row["answerKey"]))


def _asked(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def _anli_round(number: int) -> Question:
    parts = (f"test_r{number}", f"dev_r{number}")
    folders = (f"anli_r{number}", "anli", "anli/plain_text")
    place = Place("facebook/anli", folders, parts, f"train_r{number}", packaged=False)
    return Question(place, _anli, normalised=False)


TESTED = ("test", "validation")  # where the test part has its answers too

QUESTIONS = {
    "hellaswag": Question(Place("Rowan/hellaswag", ("hellaswag", "hellaswag/none")), _hellaswag),
    "piqa": Question(Place("baber/piqa", ("piqa", "piqa/plain_text")), _piqa),
    "winogrande": Question(
        Place("allenai/winogrande", ("winogrande", "winogrande/winogrande_xl", "winogrande_xl")),
        _winogrande,
        normalised=False,
    ),
    "arc_easy": Question(
        Place("allenai/ai2_arc", ("arc_easy", "ai2_arc/ARC-Easy", "ARC-Easy"), TESTED), _arc
    ),
    "arc_challenge": Question(
        Place(
            "allenai/ai2_arc", ("arc_challenge", "ai2_arc/ARC-Challenge", "ARC-Challenge"), TESTED
        ),
        _arc,
    ),
    "anli_r1": _anli_round(1),
    "anli_r2": _anli_round(2),
    "anli_r3": _anli_round(3),
    "boolq": Question(
        Place("aps/super_glue", ("boolq", "boolq/none", "super_glue/boolq")),
        _boolq,
        normalised=False,
    ),
    "cb": Question(Place("aps/super_glue", ("cb", "super_glue/cb")), _cb, normalised=False),
    "copa": Question(Place("aps/super_glue", ("copa", "super_glue/copa")), _copa),
    "rte": Question(Place("nyu-mll/glue", ("rte", "glue/rte")), _rte, normalised=False),
    "sst2": Question(Place("nyu-mll/glue", ("sst2", "glue/sst2")), _sst2, normalised=False),
    "openbookqa": Question(
        Place("allenai/openbookqa", ("openbookqa", "openbookqa/main"), TESTED), _openbookqa
    ),
    "sciq": Question(Place("allenai/sciq", ("sciq", "sciq/none"), TESTED), _sciq),
    "social_iqa": Question(
        Place("lighteval/siqa", ("social_iqa", "social_i_qa/none", "siqa")), _social_iqa
    ),
    "commonsense_qa": Question(
        Place("tau/commonsense_qa", ("commonsense_qa", "tau/commonsense_qa/none")),
        _commonsense_qa,
        normalised=False,
    ),
}
