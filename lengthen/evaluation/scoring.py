"""Log-likelihoods of continuations after contexts, which every task but `valid` is scored by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lengthen.data.tokenizer_files import TextTokenizer
from lengthen.evaluation.models import EvalModel
from lengthen.evaluation.packing import PackedBatch, Request, pack
from lengthen.model.cost import CHUNK
from lengthen.util.console import line as progress_line
from lengthen.util.errors import CheckpointError, DataError, shown

GROUP = 8  # micro-batches of windows are laid out at a time: all at once would fill the memory

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Pair = tuple[str, str]  # context, continuation
JOINED = (
    "answers that change the tokens of their context, so that other tokens than their own are "
    "scored, as by lm-eval"
)


@dataclass(frozen=True)
class Score:
    """What the model gives a continuation."""

    loss: float  # nats, summed over its tokens
    greedy: bool  # whether each of its tokens is the likeliest in its place
    tokens: int


def requests_of(text: TextTokenizer, pairs: Sequence[Pair]) -> list[Request]:
    """Return the requests for pairs of texts, divided as lm-eval's causal models divide them.

    Spaces that end a context belong to the continuation, since a token begins with its space. The
    whole is encoded at once, and what exceeds the number of the context's own tokens is the
    continuation. `Request.is_joined` where the whole does not begin with the context's tokens: then
    these are not the continuation's own. An empty context is the separator. Raises DataError where
    a continuation has no token.
    """
    moved = [(context.rstrip(), context + rest) for context, rest in pairs]
    # Each text once: the choices of an item share their context.
    texts = sorted(set(chain.from_iterable(moved)))
    encodings = text.tokenizer.encode_batch(texts, add_special_tokens=False)
    tokens = {each: tuple(one.ids) for each, one in zip(texts, encodings, strict=True)}
    requests = []
    for context, whole in moved:
        before = tokens[context]
        begin, after = tokens[whole][: len(before)], tokens[whole][len(before) :]
        if not after:
            rule = "has no token of its own after its context"
            raise DataError(f"tokenizer: the continuation {shown(whole[len(context) :])} {rule}")
        requests.append(Request(before or (text.separator,), after, is_joined=begin != before))
    return requests


def windows(text: tuple[int, ...], full_length: int, stride: int) -> Iterator[Request]:
    """Yield the windows of a text, whose first token is read and never scored.

    The first window scores up to `full_length` tokens, each later one the next `stride` of them
    (what is left, at the end) after as much text as fits before them. So every other token is
    scored once. `stride` is 1 to `full_length`, which gives disjoint windows.
    """
    assert 1 <= stride <= full_length
    first, size = 1, full_length
    while first < len(text):
        last = min(first + size, len(text))
        yield Request(text[max(0, last - 1 - full_length) : first], text[first:last])
        first, size = last, stride


def score_windows(
    model: EvalModel, text: tuple[int, ...], stride: int, limit: int | None, label: str
) -> list[Score]:
    """Return the scores of the first `limit` windows of a text, all of them where it is None."""
    left = islice(windows(text, model.length, stride), limit)
    group = GROUP * max(1, model.micro_tokens // model.length)
    scores: list[Score] = []
    with progress_line(len(text) - 1, label) as progress:
        while requests := list(islice(left, group)):
            scores += score(model, requests)
            progress.update(sum(each.tokens for each in scores), f"{len(scores):,} windows")
    return scores


def score(model: EvalModel, requests: Sequence[Request], label: str = "") -> list[Score]:
    """Return the score of each request; what several of them begin with is read once.

    A context that is too long loses its left end, so that it fills the full length together with
    the continuation but for its last token, as in lm-eval; `Request.is_truncated` says which. Every
    request must fit. Batching, order and sharing change results by rounding alone. With a `label`
    progress is shown under it. Raises CheckpointError where the logits are not finite.
    """
    losses = np.zeros(len(requests))
    greedy = np.ones(len(requests), dtype=bool)
    done = 0
    with progress_line(len(requests), label, shown=bool(label)) as progress:
        for batch in pack(requests, model.length, model.micro_tokens):
            loss, best = _score_batch(model, batch)
            np.add.at(losses, batch.numbers, loss)
            np.logical_and.at(greedy, batch.numbers, best)
            done += batch.lines
            progress.update(done, f"{done:,} of {len(requests):,} continuations")
    if np.isnan(losses).any():  # an answer would be chosen by what cannot be compared
        raise not_finite(model.name)
    return [
        Score(float(loss), bool(best), len(request.continuation))
        for loss, best, request in zip(losses, greedy, requests, strict=True)
    ]


def not_finite(name: str) -> CheckpointError:
    """Return the error for a model whose logits are not finite."""
    rule = "its logits are not finite; its weights are damaged or too large"
    return CheckpointError(f"model {name}: {rule}")


@torch.inference_mode()
def _score_batch(model: EvalModel, batch: PackedBatch) -> tuple[Floats, Bools]:
    """Return the loss of each target of a batch, and whether it is the likeliest."""
    inputs, positions, branches = (
        torch.from_numpy(part).to(model.context.device)
        for part in (batch.inputs, batch.positions, batch.branches)
    )
    with model.context.autocast():
        # Padding stands on the right, where a causal model does not look.
        if batch.is_plain:
            hidden = model.gpt.hidden(inputs)
        else:
            own = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
            hidden, _ = model.gpt.read(inputs, positions, own.tril()[:, None])
        return _compare(hidden.flatten(0, 1), model.gpt.output, batch)


def _compare(hidden: Tensor, weight: Tensor, batch: PackedBatch) -> tuple[Floats, Bools]:
    """Compare each target with the logits of the token that it follows.

    `hidden` is (tokens, width). Logits exist for the tokens that have a target, once for a token
    that has several, and for CHUNK of them at a time.
    """
    tokens, which = np.unique(batch.places, return_inverse=True)
    losses, best = np.zeros(len(which)), np.zeros(len(which), dtype=bool)
    for first in range(0, len(tokens), CHUNK):
        here = np.flatnonzero((first <= which) & (which < first + CHUNK))
        chosen = torch.from_numpy(tokens[first : first + CHUNK]).to(hidden.device)
        logits = functional.linear(hidden[chosen], weight).to(weight.dtype)
        rows = torch.from_numpy(which[here] - first).to(hidden.device)
        targets = torch.from_numpy(batch.targets[here]).to(hidden.device)
        likeliest = logits.argmax(dim=1, keepdim=True)
        # In place: another tensor of this size costs as much as the sum itself.
        logits -= logits.gather(1, likeliest)
        of_targets = logits[rows, targets].clone()
        loss = logits.exp_().sum(dim=1).log()[rows] - of_targets
        losses[here] = loss.cpu().double().numpy()
        best[here] = (likeliest[rows, 0] == targets).cpu().numpy()
    return losses, best
