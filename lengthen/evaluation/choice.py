"""Multiple choice: the answer is the continuation that the model finds likeliest."""

import time
from collections.abc import Sequence
from functools import partial
from statistics import fmean

import numpy as np

from lengthen.evaluation.items import Scored, asked, score_items, standard_error
from lengthen.evaluation.model import Subject
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.outcome import Measure, Outcome
from lengthen.evaluation.prompts import QUESTIONS, Item, Question
from lengthen.evaluation.scoring import Score


def choose(name: str, subject: Subject, wanted: Wanted) -> Outcome:
    """Return the accuracy on the set called `name`, raw and for the length of the answers.

    Raw, the right answer must have the largest log-likelihood (lm-eval's acc); normalised, the
    largest per character of its text (acc_norm). Raises what `asked` and `score_items` raise.
    """
    began = time.monotonic()
    question = QUESTIONS[name]
    given = asked(question.place, question.item, wanted)
    pairs = [[(given.header + c, answer) for c, answer in item.pairs] for item in given.items]
    scored = score_items(subject, given.items, pairs, name)
    return Outcome(
        task=name,
        items=len(scored.items),
        tokens=scored.tokens,
        seconds=time.monotonic() - began,
        measures=tuple(_measures(question, scored)),
        settings=given.settings,
        notes=scored.notes,
    )


def _measures(question: Question, scored: Scored[Item]) -> list[Measure]:
    chance = fmean(1 / len(item.pairs) for item in scored.items)
    measures = []
    for name in ("accuracy", "normalised accuracy")[: 1 + question.normalised]:
        right = [
            float(_is_right(item, scores, name))
            for item, scores in zip(scored.items, scored.scores, strict=True)
        ]
        measures.append(Measure(name, fmean(right), standard_error(right), chance))
    return measures


def _is_right(item: Item, scores: Sequence[Score], measure: str) -> bool:
    log_p = np.array([-score.loss for score in scores])
    if measure == "normalised accuracy":
        log_p /= item.lengths
    # Of equals the first, as everywhere.
    return int(log_p.argmax()) == item.right


CHOICES = {name: partial(choose, name) for name in QUESTIONS}
