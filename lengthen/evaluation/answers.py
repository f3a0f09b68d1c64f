"""Questions whose answer is free text: TriviaQA and WebQuestions."""

import string
import time
from dataclasses import dataclass

from lengthen.evaluation.generate import generate
from lengthen.evaluation.items import CUT, asked, score_items, standard_error
from lengthen.evaluation.model import Subject
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.outcome import Measure, Outcome
from lengthen.evaluation.rows import Row
from lengthen.evaluation.sets import Place
from lengthen.util.errors import SettingError

TRIVIAQA = Place(
    "mandarjoshi/trivia_qa",
    ("triviaqa", "trivia_qa/rc.nocontext", "trivia_qa/rc.wikipedia.nocontext"),
)
WEBQS = Place("stanfordnlp/web_questions", ("webqs", "web_questions"), ("test",), packaged=False)
STOPS = ("\n", ".", ",")
MOST = 32  # tokens of an answer: one that goes on longer is no name of anything
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Item:
    """A question, and the answers that are right."""

    context: str
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.answers:
            raise ValueError("no answer")

    @property
    def solved(self) -> str:
        """The question with an answer: a shot."""
        return f"{self.context} {self.answers[0]}"

    def is_right(self, text: str) -> bool:
        """Say whether `text` is one of the answers, but for case and punctuation."""
        return _bare(text.strip()) in map(_bare, self.answers)


def _bare(text: str) -> str:
    return text.lower().translate(WITHOUT_PUNCTUATION)


def triviaqa(subject: Subject, wanted: Wanted) -> Outcome:
    """Return how often the greedy answer is one of the aliases, as lm-eval's triviaqa has it.

    It ends at a line end, a full stop, a comma or after MOST tokens. Raises what `asked` raises,
    and SettingError for a model without room for an answer.
    """
    began = time.monotonic()
    if subject.model.length <= 2 * MOST:
        rule = f"triviaqa needs a full length above {2 * MOST}"
        raise SettingError("--tasks", rule, subject.model.length)
    given = asked(TRIVIAQA, trivia_item, wanted)
    encodings = subject.tokenizer.encode_batch(
        [given.header + item.context for item in given.items], add_special_tokens=False
    )
    prompts = [tuple(encoding.ids) for encoding in encodings]
    texts = generate(subject, prompts, stops=STOPS, most=MOST, label="triviaqa")
    right = [item.is_right(text) for item, text in zip(given.items, texts, strict=True)]
    cut = sum(len(prompt) + MOST > subject.model.length for prompt in prompts)
    notes = (f"{CUT}: {cut}",) if cut else ()
    return _outcome("triviaqa", began, right, 0, given.settings, notes)


def webqs(subject: Subject, wanted: Wanted) -> Outcome:
    """Return how often an answer is what greedy decoding begins with, as lm-eval's webqs has it.

    Raises what `asked` and `score_items` raise.
    """
    began = time.monotonic()
    given = asked(WEBQS, web_item, wanted)
    pairs = [
        [(given.header + item.context, f" {each}") for each in item.answers] for item in given.items
    ]
    scored = score_items(subject, given.items, pairs, "webqs")
    right = [any(score.greedy for score in item) for item in scored.scores]
    return _outcome("webqs", began, right, scored.tokens, given.settings, scored.notes)


def trivia_item(row: Row) -> Item:
    """Return a row of TriviaQA as it is asked."""
    return Item(f"Question: {row['question']}?\nAnswer:", tuple(row["answer"]["aliases"]))


def web_item(row: Row) -> Item:
    """Return a row of WebQuestions as it is asked."""
    # An answer that another one begins with can be left out: it is right whenever that one is.
    answers: list[str] = []
    for answer in sorted(row["answers"]):
        if not answers or not answer.startswith(answers[-1]):
            answers.append(answer)
    return Item(f"Question: {row['question']}\nAnswer:", tuple(answers))


def _outcome(
    task: str,
    began: float,
    right: list[bool],
    tokens: int,
    settings: tuple[tuple[str, str], ...],
    notes: tuple[str, ...],
) -> Outcome:
    values = [float(each) for each in right]
    measure = Measure("accuracy", sum(values) / len(values), standard_error(values), chance=0.0)
    seconds = time.monotonic() - began
    return Outcome(task, len(right), tokens, seconds, (measure,), (), settings, notes)
