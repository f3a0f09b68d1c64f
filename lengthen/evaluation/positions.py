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
from lengthen.evaluation.loss import Tokens, fronts
from lengthen.evaluation.models import EvalModel, EvalOptions
from lengthen.evaluation.results import (
    Curve,
    Measure,
    Outcome,
    perplexity_measure,
    standard_error,
)
from lengthen.model.gpt import GPT
from lengthen.model.loss import CHUNK
from lengthen.util.console import clock_time, note
from lengthen.util.console import line as progress_line
from lengthen.util.errors import DataError
from lengthen.util.tables import counted

SHARES = (8, 4, 2)  # of the full length, as divisors: the shorter windows
BANDS = 4  # in each doubling of the position
CURVE = "loss by position"
SAME_TOKENS = "a shorter length reads the same tokens, in windows of that length"
MASKED = "a token reads its own document alone, as in training"

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def valid(model: EvalModel, store: Store, options: EvalOptions) -> Outcome:
    """Return loss and perplexity over the validation part of a store, in full-length sequences.

    `limit` takes the first sequences. Errors are over sequences; chance gives every token of the
    vocabulary the same. Raises DataError where the part has no full-length sequence.
    """
    began = time.monotonic()
    length = model.length
    sequences = (len(store.valid) - 1) // length
    if sequences < 1:
        has = f"the valid part has {len(store.valid)} tokens, needs at least {length + 1}"
        raise DataError(f"store {store.path}: {has}; prepare with a larger --valid")
    sequences = min(sequences, options.limit or sequences)
    shorter = [size for share in SHARES if (size := length // share)]
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

        by_sequence, by_position = read(length, sequences, after_batch)
        in_windows = {
            size: float(read(size, sequences * length // size, after_batch)[0].mean())
            for size in shorter
        }
    return Outcome(
        task="valid",
        items=sequences,
        tokens=sequences * length,
        seconds=time.monotonic() - began,
        measures=tuple(_measures(by_sequence, in_windows, model.vocabulary)),
        curves=(curve(by_position),),
        settings=(("store", str(store.path)), ("store id", store.id), ("length", str(length))),
        notes=(SAME_TOKENS, *[MASKED] * model.masked),
    )


def losses(
    model: EvalModel,
    tokens: Tokens,
    length: int,
    sequences: int,
    after_batch: Callable[[int], None],
    separator: int | None = None,
) -> tuple[Floats, Floats]:
    """Return the mean loss of each of the first sequences, and that at each of their positions.

    Nats, float64: (sequences,) and (length,). `after_batch` gets the tokens of each micro-batch.
    With a `separator` a token reads its own document alone.
    """
    rows = max(1, model.micro_tokens // length)
    by_sequence, by_position = np.zeros(sequences), np.zeros(length)
    with torch.inference_mode(), model.context.autocast():
        for first in range(0, sequences, rows):
            share = range(first, min(first + rows, sequences))
            batch, device = fronts(tokens, share, length, length), model.context.device
            documents = documents_in(batch[:, :-1], separator, device)
            by_token = _token_losses(model.gpt, batch.to(device), documents).cpu().double().numpy()
            by_sequence[share.start : share.stop] = by_token.mean(axis=1)
            by_position += by_token.sum(axis=0) / sequences
            after_batch(by_token.size)
    return by_sequence, by_position


def _token_losses(gpt: GPT, tokens: Tensor, documents: Tensor | None) -> Tensor:
    """Return the loss of every token but the first of each row: (rows, length)."""
    hidden = gpt.hidden(tokens[:, :-1], None, documents).flatten(0, 1)
    targets = tokens[:, 1:].flatten()
    weight = gpt.tokens.weight
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


def _measures(
    by_sequence: Floats, in_windows: dict[int, float], vocabulary: int
) -> Iterator[Measure]:
    loss, error = float(by_sequence.mean()), standard_error(by_sequence.tolist())
    guess = math.log(vocabulary)
    yield Measure("loss", loss, error, guess)
    yield perplexity_measure("perplexity", loss, error, float(vocabulary))
    for size, shorter in sorted(in_windows.items()):
        yield Measure(f"loss at length {size}", shorter, None, guess)
