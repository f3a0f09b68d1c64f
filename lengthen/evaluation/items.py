"""The items of a set: which are asked, what stands ahead of them, and their scores."""

import hashlib
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

from lengthen.core.shuffle import sub_seed
from lengthen.evaluation.model import Subject
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.requests import Pair, Request, requests_of
from lengthen.evaluation.rows import Row
from lengthen.evaluation.scoring import Score, score
from lengthen.evaluation.sets import Place, Set, load, load_train
from lengthen.util.errors import DataError, SettingError

BETWEEN_SHOTS = "\n\n"
CUT = "items whose context lost its left end, since it exceeds the full length"


class Solvable(Protocol):
    """What every kind of item has."""

    @property
    def solved(self) -> str:
        """The question with its right answer: a shot."""


Item = TypeVar("Item", bound=Solvable)


@dataclass(frozen=True)
class Asked(Generic[Item]):
    """The items that are scored, and the text that stands ahead of each: the shots."""

    items: tuple[Item, ...]
    header: str
    settings: tuple[tuple[str, str], ...]


def asked(place: Place, item: Callable[[Row], Item], wanted: Wanted) -> Asked[Item]:
    """Return the items of a set that are wanted, and the same shots for all of them.

    Shots are drawn without replacement, by the seed alone, from the training part where it is
    found; else from the items themselves, and what was drawn is not scored. Raises what `load`
    raises, DataError for a row that is no item, SettingError for too many shots.
    """
    found = load(place, wanted.sets)
    items = _items(found, item)
    train = load_train(place, wanted.sets) if wanted.shots else None
    pool = _items(train, item) if train else items
    if wanted.shots > len(pool) - (train is None):
        rule = f"must be below the items that they are drawn from ({len(pool)})"
        raise SettingError("--shots", rule, wanted.shots)
    drawn = random.Random(sub_seed(wanted.seed, "shots")).sample(range(len(pool)), wanted.shots)
    left = items if train else [each for n, each in enumerate(items) if n not in set(drawn)]
    settings = found.settings()
    header = "".join(pool[number].solved + BETWEEN_SHOTS for number in drawn)
    if wanted.shots:
        origin = train.part if train else f"{found.part}, and not scored"
        settings += ("shots", f"{wanted.shots} from {origin}"), ("seed", str(wanted.seed))
        digest = hashlib.sha256(header.encode("utf-8", "surrogatepass"))
        settings += (("shots SHA-256", digest.hexdigest()),)
    return Asked(tuple(left[: wanted.limit]), header, settings)


def _items(found: Set, item: Callable[[Row], Item]) -> list[Item]:
    items = []
    for number, row in enumerate(found.rows, start=1):
        try:
            items.append(item(row))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            cause = f"has no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"set {found.files[0]} row {number}: {cause}") from None
    return items


@dataclass(frozen=True)
class Scored(Generic[Item]):
    """The items that fit into the model, the scores of their pairs, and what to say about both."""

    items: tuple[Item, ...]
    scores: tuple[tuple[Score, ...], ...]  # an item's, in the order of its pairs
    notes: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens that were scored."""
        return sum(score.tokens for item in self.scores for score in item)


def score_items(
    subject: Subject, items: Sequence[Item], pairs: Sequence[Sequence[Pair]], label: str
) -> Scored[Item]:
    """Return the scores of the pairs of each item.

    An item with an answer longer than the full length is passed over, since no part of the answer
    stands for the whole; a context that is too long loses its left end. Both are counted in notes.
    Raises what `requests_of` raises, and DataError where no item fits.
    """
    length = subject.model.length
    flat = iter(requests_of(subject.text, list(chain.from_iterable(pairs))))
    requests = [list(islice(flat, len(each))) for each in pairs]
    fit = [n for n, each in enumerate(requests) if all(r.fits(length) for r in each)]
    if not fit:
        raise DataError(f"{label}: no answer fits into the model's full length ({length} tokens)")
    scores = iter(score(subject, [r for n in fit for r in requests[n]], label))
    return Scored(
        tuple(items[n] for n in fit),
        tuple(tuple(islice(scores, len(requests[n]))) for n in fit),
        tuple(_notes(requests, fit, length)),
    )


def _notes(requests: Sequence[Sequence[Request]], fit: list[int], length: int) -> Iterator[str]:
    if skipped := len(requests) - len(fit):
        yield f"items passed over, since an answer exceeds the full length ({length}): {skipped}"
    if cut := sum(any(r.is_cut(length) for r in requests[n]) for n in fit):
        yield f"{CUT}: {cut}"


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean over items; None for a single one."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values))
