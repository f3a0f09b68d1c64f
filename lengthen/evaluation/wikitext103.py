"""WikiText-103: perplexity of its test text, for a word and for a token."""

import hashlib
import math
import re
import time
from pathlib import Path

import numpy as np

from lengthen.core.loss_ratio import perplexity
from lengthen.evaluation.models import EvalModel, EvalOptions
from lengthen.evaluation.results import Measure, Outcome, perplexity_measure
from lengthen.evaluation.scoring import Score, score_windows
from lengthen.evaluation.task_files import ENDINGS, WIKITEXT, read_texts
from lengthen.util.disk import read_limited
from lengthen.util.errors import DataError, SettingError

SIZE_LIMIT = 2**30  # bytes
PUBLISHED = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"  # SHA-256
WORDS = "words: of the text before clean-up, split at single spaces, the ends stripped"
STREAM = (
    "the detokenised text is one stream after a separator; each window scores its last tokens "
    "({stride}), the first one all, within a full length of {length}"
)
ANOTHER = "this is not the published test text: compare with figures from this text"
# WikiText's spacing undone, in this order: brackets take what the marks before them have left,
# headings the longest first. Quotation marks pair up in the order in which they come, also over
# the ends of lines, so a text in pieces gives another result than the whole. Of the published
# rules one is left out, for an apostrophe before a digit: as it is spelled it fits nothing.
SPACING = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        ("s '", "s'"),
        (" @([-,.])@ ", r"\1"),
        *((f" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),
        *(
            (rf"\{left}\s*([^\{right}]*?)\s*\{right}", rf"{left}\1{right}")
            for left, right in ("()", "[]", "{}", '""', "''")
        ),
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (" ° ", "°"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    )
)


def wikitext103(model: EvalModel, options: EvalOptions) -> Outcome:
    """Return the perplexity of the test text for a word and for a token.

    For a word it is exp(loss / token x tokens / words), both of the whole text, so that `limit`
    windows estimate the same figure. Errors are over windows. Raises SettingError where the text is
    not found or the stride exceeds the full length, DataError where the text cannot be used.
    """
    began = time.monotonic()
    stride = options.stride or model.length
    if stride > model.length:
        rule = f"must be at most the full length ({model.length})"
        raise SettingError("--stride", rule, stride)
    text, file = read(options.sets)
    sha256, words = hashlib.sha256(text.encode()).hexdigest(), count_words(text)
    ids = model.tokenizer.encode(detokenise(text), add_special_tokens=False).ids
    stream = (model.text.separator, *ids)
    scores = score_windows(model, stream, stride, options.limit, "wikitext103")
    notes = [STREAM.format(stride=stride, length=model.length), f"{WORDS} ({words:,})"]
    notes += [] if sha256 == PUBLISHED else [ANOTHER]
    return Outcome(
        task="wikitext103",
        items=len(scores),
        tokens=sum(score.tokens for score in scores),
        seconds=time.monotonic() - began,
        measures=_measures(scores, len(ids) / words, model.vocabulary),
        settings=(
            ("set", str(file)),
            ("set SHA-256", sha256),
            ("length", str(model.length)),
            ("stride", str(stride)),
            ("tokens", str(len(ids))),
            ("tokens SHA-256", hashlib.sha256(np.array(ids, np.int64).tobytes()).hexdigest()),
            ("words", str(words)),
        ),
        notes=tuple(notes),
    )


def count_words(text: str) -> int:
    """Return the words by the rule WORDS, of Megatron-LM (Shoeybi et al. 2019, section 5.2)."""
    return len(text.strip().split(" "))


def detokenise(text: str) -> str:
    """Return the text by the inversion that GPT-2's and Megatron's figures have made usual."""
    for pattern, written in SPACING:
        text = pattern.sub(written, text)
    return text


def _measures(
    scores: list[Score], tokens_per_word: float, vocabulary: int
) -> tuple[Measure, Measure]:
    """Return the perplexities; chance gives every token of the vocabulary the same."""
    losses = np.array([score.loss for score in scores])
    tokens = np.array([score.tokens for score in scores])
    mean, error = float(losses.sum() / tokens.sum()), None
    if len(losses) > 1:  # over windows, which differ in size
        spread = len(losses) * (losses - mean * tokens).var(ddof=1)
        error = float(math.sqrt(spread) / tokens.sum())

    def measure(name: str, unit: float) -> Measure:
        spread = None if error is None else unit * error
        chance = perplexity(unit * math.log(vocabulary))
        return perplexity_measure(name, unit * mean, spread, chance)

    return measure("word perplexity", tokens_per_word), measure("token perplexity", 1.0)


def read(sets: Path | None) -> tuple[str, Path]:
    """Return the test text as published, and its file.

    `sets` is a folder with sets, or the file of this one. Raises SettingError where there is no
    such file, DataError where it cannot be used.
    """
    _, files = WIKITEXT.require(sets)
    if files[0].name.endswith(ENDINGS):
        # The hub's copy has nothing where the published text has a line with one space.
        text = "".join(row or " \n" for row in read_texts(files)[0])
    else:
        try:
            text = read_limited(files[0].resolve(), SIZE_LIMIT).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"set {files[0]}: not UTF-8 ({error.reason})") from None
    if not text.strip():
        raise DataError(f"set {files[0]}: is empty; fetch it again, or name another by --sets")
    return text, files[0]
