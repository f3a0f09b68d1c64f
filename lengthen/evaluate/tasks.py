"""The tasks by name."""

from collections.abc import Callable
from pathlib import Path

from lengthen.evaluate import answers, lambada, sets
from lengthen.evaluate.choice import CHOICES
from lengthen.evaluate.outcome import Outcome
from lengthen.evaluate.prompts import QUESTIONS
from lengthen.evaluate.subject import Subject
from lengthen.evaluate.wanted import Wanted

Task = Callable[[Subject, Wanted], Outcome]

TASKS: dict[str, Task] = {
    "lambada": lambada.lambada,
    **CHOICES,
    "triviaqa": answers.triviaqa,
    "webqs": answers.webqs,
}

PLACES = {
    "lambada": lambada.PLACE,
    **{name: question.place for name, question in QUESTIONS.items()},
    "triviaqa": answers.TRIVIAQA,
    "webqs": answers.WEBQS,
}


def found(folder: Path | None) -> list[str]:
    """Return the names of the tasks whose set is in the folder, or else installed."""
    return [name for name, place in PLACES.items() if sets.is_found(place, folder)]
