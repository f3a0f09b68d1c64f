"""WikiText-103: perplexity of its test text, for a word and for a token."""

import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lengthen.core.loss_ratio import perplexity
from lengthen.evaluation import sets
from lengthen.evaluation.detokenise import detokenise
from lengthen.evaluation.model import Subject
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.outcome import Measure, Outcome
from lengthen.evaluation.rows import ENDINGS, SIZE_LIMIT
from lengthen.evaluation.scoring import Score
from lengthen.evaluation.sets import Place
from lengthen.evaluation.windows import scores_of
from lengthen.util.disk import read_limited
from lengthen.util.errors import DataError, SettingError

FILE = "wiki.test.raw"
FOLDERS = ("wikitext103", "wikitext-103-raw-v1", "wikitext-103-raw", "wikitext2")
PLACE = Place("Salesforce/wikitext", FOLDERS, ("test",), packaged=False)
PUBLISHED = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"  # SHA-256
WORDS = "words: of the text before clean-up, split at single spaces, the ends stripped"
STREAM = (
    "the detokenised text is one stream behind a separator; each window scores its last tokens "
    "({stride}), the first one all, within a full length of {length}"
)
ANOTHER = "this is not the published test text: compare with figures from this text"


@dataclass(frozen=True)
class Text:
    """The test text as published, and where it was found."""

    text: str
    file: Path

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def words(self) -> int:
        """Words by the rule WORDS, that of Megatron-LM (Shoeybi et al. 2019, section 5.2)."""
        return len(self.text.strip().split(" "))


def wikitext103(subject: Subject, wanted: Wanted) -> Outcome:
    """Return the perplexity of the test text for a word and for a token.

    For a word it is exp(loss / token x tokens / words), both of the whole text, so that `limit`
    windows estimate the same figure. Errors are over windows. Raises SettingError where the text is
    not found or the stride exceeds the full length, DataError where the text cannot be used.
    """
    began = time.monotonic()
    length = subject.model.length
    stride = wanted.stride or length
    if stride > length:
        raise SettingError("--stride", f"must be at most the full length ({length})", stride)
    found = read(wanted.sets)
    ids = subject.tokenizer.encode(detokenise(found.text), add_special_tokens=False).ids
    stream = (subject.text.separator, *ids)
    scores = scores_of(subject, stream, stride, wanted.limit, "wikitext103")
    notes = [STREAM.format(stride=stride, length=length), f"{WORDS} ({found.words:,})"]
    notes += [] if found.sha256 == PUBLISHED else [ANOTHER]
    return Outcome(
        task="wikitext103",
        items=len(scores),
        tokens=sum(score.tokens for score in scores),
        seconds=time.monotonic() - began,
        measures=_measures(scores, len(ids) / found.words, subject.model.tokens.num_embeddings),
        settings=(
            ("set", str(found.file)),
            ("set SHA-256", found.sha256),
            ("length", str(length)),
            ("stride", str(stride)),
            ("tokens", str(len(ids))),
            ("tokens SHA-256", hashlib.sha256(np.array(ids, np.int64).tobytes()).hexdigest()),
            ("words", str(found.words)),
        ),
        notes=tuple(notes),
    )


def _measures(
    scores: list[Score], tokens_a_word: float, vocabulary: int
) -> tuple[Measure, Measure]:
    """Return the perplexities; chance gives every token of the vocabulary the same."""
    losses = np.array([score.loss for score in scores])
    tokens = np.array([score.tokens for score in scores])
    loss, error = _mean(losses, tokens)

    def measure(name: str, unit: float) -> Measure:
        value = perplexity(unit * loss)
        spread = None if error is None else value * unit * error  # of exp(mean), to first order
        return Measure(name, value, spread, perplexity(unit * math.log(vocabulary)))

    return measure("word perplexity", tokens_a_word), measure("token perplexity", 1.0)


def _mean(
    losses: np.ndarray[tuple[int], np.dtype[np.float64]],
    tokens: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> tuple[float, float | None]:
    """Return the loss of a token and its standard error over windows, which differ in size."""
    mean = losses.sum() / tokens.sum()
    if len(losses) < 2:
        return float(mean), None
    spread = len(losses) * (losses - mean * tokens).var(ddof=1)
    return float(mean), float(math.sqrt(spread) / tokens.sum())


def is_found(folder: Path | None) -> bool:
    """Say whether the test text is there."""
    return _raw(folder) is not None or sets.is_found(PLACE, folder)


def read(folder: Path | None) -> Text:
    """Return the test text from its raw file, or from the rows that the hub makes of its lines.

    `folder` has sets, or is the file of this one. Raises SettingError where it has no such file,
    DataError where the file cannot be used.
    """
    if raw := _raw(folder):
        data = read_limited(raw.resolve(), SIZE_LIMIT)
        try:
            found = Text(data.decode("utf-8"), raw)
        except UnicodeDecodeError as error:
            raise DataError(f"set {raw}: not UTF-8 ({error.reason})") from None
    elif sets.is_found(PLACE, folder):
        found = _joined(folder)
    else:
        where = "none is named" if folder is None else f"not in {folder}"
        way_out = f"a folder with {FILE} has it, or with the files of {PLACE.source} on the hub"
        raise SettingError("--sets", f"no text {FILE}: {where}; {way_out} (wikitext-103-raw-v1)")
    if not found.text.strip():
        raise DataError(f"set {found.file}: is empty; fetch it again, or name another by --sets")
    return found


def _raw(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    if folder.is_file():
        return None if folder.name.endswith(ENDINGS) else folder
    places = (folder / name / FILE for name in ("", *FOLDERS))
    return next((place for place in places if place.is_file()), None)


def _joined(folder: Path | None) -> Text:
    found = sets.load(PLACE, folder)
    try:
        # The hub's copy has nothing where the published text has a line with one space.
        return Text("".join(row["text"] or " \n" for row in found.rows), found.files[0])
    except (KeyError, TypeError):
        raise DataError(f"set {found.files[0]}: has a row without a text") from None
