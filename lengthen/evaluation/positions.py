"""Validation loss at full length, by position in the sequence, and in shorter windows."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lengthen.data.documents import documents_in
from lengthen.data.store import Store
from lengthen.data.token_row import Tokens
from lengthen.evaluation.loss import fronts
from lengthen.evaluation.models import EvalModel, EvalOptions
from lengthen.evaluation.results import (
    Curve,
    Measure,
    Outcome,
    perplexity_measure,
    standard_error,
)
from lengthen.model.cost import CHUNK
from lengthen.model.gpt import GPT
from lengthen.util.console import clock_time, note
from lengthen.util.console import line as progress_line
from lengthen.util.errors import DataError, SettingError
from lengthen.util.tables import counted

SHARES = (8, 4, 2)  # of the full length, as divisors: the shorter windows
QUARTERS = 4
BANDS = 4  # in each doubling of the position
CURVE = "loss by position"
SAME_TOKENS = (
    "a shorter length reads the same tokens, in windows of that length; context gain is the loss "
    "in them less that at full length, of tokens with half a window or more before them in both"
)

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def valid(model: EvalModel, store: Store, options: EvalOptions) -> Outcome:
    """Return loss and perplexity over the validation part of a store, in full-length sequences.

    `limit` takes the first sequences, `windows` are the shorter lengths. Errors are over sequences;
    chance gives every token of the vocabulary the same. Raises DataError where the part has no
    full-length sequence, SettingError for a window that is not shorter than one.
    """
    began = time.monotonic()
    length = model.length
    sequences = (len(store.valid) - 1) // length
    if sequences < 1:
        has = f"the valid part has {len(store.valid)} tokens, needs at least {length + 1}"
        raise DataError(f"store {store.path}: {has}; prepare with a larger --valid")
    sequences = min(sequences, options.limit or sequences)
    shorter = options.windows or [size for share in SHARES if (size := length // share)]
    if max(shorter, default=0) >= length:
        raise SettingError("--windows", f"must be shorter than {length} tokens", max(shorter))
    separator = store.separator if model.masked else None
    read = partial(losses, model, store.valid, separator=separator)
    tried = [(read(length, 1, lambda _: None), time.monotonic()) for _ in range(2)]
    seconds = (tried[1][1] - tried[0][1]) * sequences * (1 + len(shorter))
    size_text = f"{counted(sequences, 'sequence')}, {sequences * length:,} tokens"
    note(f"valid: {size_text}, about {clock_time(seconds)} by a trial of one")
    done = 0
    with progress_line((1 + len(shorter)) * sequences * length, "valid") as progress:

        def after_batch(tokens: int) -> None:
            nonlocal done
            done += tokens
            progress.update(done, f"{done:,} tokens")

        whole = read(length, sequences, after_batch)
        measures = list(_measures(whole, model.vocabulary))
        for size in sorted(shorter):
            short = read(size, sequences * length // size, after_batch)
            measures += _of_window(whole, short, model.vocabulary)
    windows = ("windows", ", ".join(map(str, sorted(shorter))))
    return Outcome(
        task="valid",
        items=sequences,
        tokens=sequences * length,
        seconds=time.monotonic() - began,
        measures=tuple(measures),
        curves=(curve(whole.mean(axis=0)),),
        settings=(
            ("store", str(store.path)),
            ("store id", store.id),
            ("length", str(length)),
            *([windows] if options.windows else []),
            *([("documents", "mask")] if model.masked else []),
        ),
        notes=(SAME_TOKENS,),
    )


def losses(
    model: EvalModel,
    tokens: Tokens,
    length: int,
    sequences: int,
    after_batch: Callable[[int], None],
    separator: int | None = None,
) -> Floats:
    """Return the loss of each token of the first sequences, in nats: (sequences, length) float64.

    `after_batch` gets the tokens of each micro-batch. With a `separator` a token reads its own
    document alone.
    """
    rows = max(1, model.micro_tokens // length)
    by_token = np.zeros((sequences, length))
    with torch.inference_mode(), model.context.autocast():
        for first in range(0, sequences, rows):
            share = range(first, min(first + rows, sequences))
            batch, device = fronts(tokens, share, length, length), model.context.device
            documents = documents_in(batch[:, :-1], separator, device)
            found = _token_losses(model.gpt, batch.to(device), documents)
            by_token[share.start : share.stop] = found.cpu().double()
            after_batch(len(share) * length)
    return by_token


def _token_losses(gpt: GPT, tokens: Tensor, documents: Tensor | None) -> Tensor:
    """Return the loss of every token but the first of each row: (rows, length)."""
    hidden = gpt.hidden(tokens[:, :-1], None, documents).flatten(0, 1)
    targets = tokens[:, 1:].flatten()
    weight = gpt.output
    parts = []
    for first in range(0, len(hidden), CHUNK):
        part = slice(first, first + CHUNK)
        logits = functional.linear(hidden[part], weight).to(weight.dtype)
        parts.append(functional.cross_entropy(logits, targets[part], reduction="none"))
    return torch.cat(parts).view(len(tokens), -1)


def bands(length: int) -> Iterator[range]:
    """Yield neighbouring ranges that cover the positions 1 to `length`.

    Four in each doubling: as wide on a logarithmic axis, and where few sequences reach a single
    position often, it is averaged with many others.
    """
    last = BANDS * math.ceil(math.log2(length))
    edges = {min(length, round(2 ** (number / BANDS))) for number in range(last + 1)}
    for before, end in itertools.pairwise([0, *sorted(edges)]):
        yield range(before + 1, end + 1)


def curve(by_position: Floats) -> Curve:
    """Return the loss averaged over bands of positions, each at the middle of its band.

    A position counts the tokens that the model has read by then: 1 to the full length.
    """
    parts = list(bands(len(by_position)))
    return Curve(
        CURVE,
        "position in the sequence",
        tuple((part.start + part.stop - 1) / 2 for part in parts),
        tuple(float(by_position[part.start - 1 : part.stop - 1].mean()) for part in parts),
    )


def gains(whole: Floats, short: Floats) -> Floats:
    """Return the loss in shorter windows less that at full length, of each sequence, in nats.

    (sequences, length) and (windows, size) of the same tokens -> (sequences,). Only tokens count
    that have at least half a window before them in their window and in their sequence; a sequence
    without one is left out.
    """
    (sequences, length), size = whole.shape, short.shape[1]
    at = np.arange(short.size)
    at = at[2 * np.minimum(at % size + 1, at % length + 1) >= size]
    gain, of = short.ravel()[at] - whole.ravel()[at], at // length
    counts = np.bincount(of, minlength=sequences)
    return np.bincount(of, gain, sequences)[counts > 0] / counts[counts > 0]


def _measures(whole: Floats, vocabulary: int) -> Iterator[Measure]:
    guess = math.log(vocabulary)
    loss = _mean("loss", whole.mean(axis=1), guess)
    yield loss
    yield perplexity_measure("perplexity", loss.value, loss.error, float(vocabulary))
    for number, part in enumerate(np.array_split(whole, QUARTERS, axis=1), 1):
        if part.size:
            yield _mean(f"loss in quarter {number}", part.mean(axis=1), guess)


def _of_window(whole: Floats, short: Floats, vocabulary: int) -> Iterator[Measure]:
    size = short.shape[1]
    yield Measure(f"loss at length {size}", float(short.mean()), None, math.log(vocabulary))
    yield _mean(f"context gain over {size}", gains(whole, short))


def _mean(name: str, by_sequence: Floats, chance: float | None = None) -> Measure:
    return Measure(name, float(by_sequence.mean()), standard_error(by_sequence.tolist()), chance)
