"""Log-likelihoods of continuations behind contexts: what every task but text is judged by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lengthen.evaluation.model import Subject
from lengthen.evaluation.packing import Line, Pass, header_of, lines_of, passes
from lengthen.evaluation.requests import Request
from lengthen.model.gpt import CHUNK, KeysAndValues
from lengthen.util.console import line as progress_line
from lengthen.util.errors import CheckpointError

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Past = tuple[KeysAndValues, ...]


@dataclass(frozen=True)
class Score:
    """What the model gives a continuation."""

    loss: float  # nats, summed over its tokens
    greedy: bool  # whether each of its tokens is the likeliest in its place
    tokens: int


def score(subject: Subject, requests: Sequence[Request], label: str = "") -> list[Score]:
    """Return the score of each request; what several of them begin with is read once.

    A context that is too long loses its left end, so that it fills the full length together with
    the continuation but for its last token, as lm-eval has it; `Request.is_cut` tells. Every
    request must fit. Batching, order and sharing change results by rounding alone. With a `label`
    progress is shown under it. Raises CheckpointError where the logits are not finite.
    """
    losses = np.zeros(len(requests))
    greedy = np.ones(len(requests), dtype=bool)
    done = 0
    with progress_line(len(requests), label, shown=bool(label)) as progress:
        # What was cut begins somewhere in its text: it would leave the others without a header.
        for lines in lines_of(requests, subject.model.length):
            for read, loss, best in _judged(subject, lines):
                np.add.at(losses, read.numbers, loss)
                np.logical_and.at(greedy, read.numbers, best)
                done += read.lines
                progress.update(done, f"{done:,} of {len(requests):,} continuations")
    if np.isnan(losses).any():  # an answer would be chosen by what cannot be compared
        rule = "its logits are not finite; its weights are spoiled or too large"
        raise CheckpointError(f"model {subject.name}: {rule}")
    return [
        Score(float(loss), bool(best), len(request.continuation))
        for loss, best, request in zip(losses, greedy, requests, strict=True)
    ]


@torch.inference_mode()
def _judged(subject: Subject, lines: Sequence[Line]) -> Iterator[tuple[Pass, Floats, Bools]]:
    """Yield each pass with the loss of each of its targets, and whether it is the likeliest."""
    model, place = subject.model, subject.place
    header = header_of(lines)
    with place.autocast():
        past = _read_header(subject, header)
    for each in passes(lines, len(header), subject.pass_tokens):
        with place.autocast():
            hidden = _hidden(subject, each, past).flatten(0, 1)
            loss, best = _compared(hidden, model.tokens.weight, each)
        yield each, loss, best


def _read_header(subject: Subject, header: tuple[int, ...]) -> Past:
    if not header:
        return ()
    inputs = torch.tensor([header], device=subject.place.device)
    positions = torch.arange(len(header), device=subject.place.device)
    mask = torch.ones(len(header), len(header), dtype=torch.bool, device=inputs.device).tril()
    return subject.model.read(inputs, positions, mask[None, None], keeps=True)[1]


def _hidden(subject: Subject, each: Pass, past: Past) -> Tensor:
    """Return what the logits of a pass are read from: (rows, length, width)."""
    inputs, positions, branches = (
        torch.from_numpy(part).to(subject.place.device)
        for part in (each.inputs, each.positions, each.branches)
    )
    # Padding stands on the right, where a causal model does not look.
    if not past and each.is_plain:
        return subject.model.hidden(inputs)
    own = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    mask = own.tril()
    if past:
        earlier = mask.new_ones(*mask.shape[:2], past[0][0].shape[2])
        mask = torch.cat([earlier, mask], dim=2)
    return subject.model.read(inputs, positions, mask[:, None], past)[0]


def _compared(hidden: Tensor, weight: Tensor, each: Pass) -> tuple[Floats, Bools]:
    """Compare each target with the logits of the token that it follows.

    `hidden` is (tokens, width). Logits exist for the tokens that have a target, once for a token
    that has several, and for CHUNK of them at a time.
    """
    tokens, which = np.unique(each.places, return_inverse=True)
    losses, best = np.zeros(len(which)), np.zeros(len(which), dtype=bool)
    for first in range(0, len(tokens), CHUNK):
        here = np.flatnonzero((first <= which) & (which < first + CHUNK))
        chosen = torch.from_numpy(tokens[first : first + CHUNK]).to(hidden.device)
        logits = functional.linear(hidden[chosen], weight).to(weight.dtype)
        rows = torch.from_numpy(which[here] - first).to(hidden.device)
        targets = torch.from_numpy(each.targets[here]).to(hidden.device)
        likeliest = logits.argmax(dim=1, keepdim=True)
        # In place: another tensor of this size costs as much as the sum itself.
        logits -= logits.gather(1, likeliest)
        of_targets = logits[rows, targets].clone()
        loss = logits.exp_().sum(dim=1).log()[rows] - of_targets
        losses[here] = loss.cpu().double().numpy()
        best[here] = (likeliest[rows, 0] == targets).cpu().numpy()
    return losses, best
