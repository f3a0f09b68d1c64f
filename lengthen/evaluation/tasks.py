"""The tasks by name."""

from collections.abc import Callable
from pathlib import Path

from lengthen.evaluation import answers, lambada, sets, wikitext103
from lengthen.evaluation.choice import CHOICES
from lengthen.evaluation.model import Subject
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.outcome import Outcome
from lengthen.evaluation.prompts import QUESTIONS

Task = Callable[[Subject, Wanted], Outcome]

WIKITEXT = "wikitext103"

TASKS: dict[str, Task] = {
    WIKITEXT: wikitext103.wikitext103,
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
    text = [WIKITEXT] if wikitext103.is_found(folder) else []
    return text + [name for name, place in PLACES.items() if sets.is_found(place, folder)]


def raise_missing(name: str, folder: Path | None) -> None:
    """Raise what a task raises whose set is not there, without its model."""
    if name == WIKITEXT:
        wikitext103.read(folder)
    else:
        sets.load(PLACES[name], folder)
