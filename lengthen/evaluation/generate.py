"""Greedy continuations of many prompts at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lengthen.evaluation.model import Subject
from lengthen.model.gpt import KeysAndValues
from lengthen.util.console import line as progress_line


def generate(
    subject: Subject,
    prompts: Sequence[tuple[int, ...]],
    *,
    stops: Sequence[str],
    most: int,
    label: str = "",
) -> list[str]:
    """Return the likeliest text behind each prompt, up to a stop, the separator or `most` tokens.

    A prompt loses its left end where it would leave no room for `most` tokens, which must be below
    the full length.
    """
    assert 0 < most < subject.model.length
    stops = [*stops, subject.text.separator_text]
    end, decode = subject.text.separator, subject.tokenizer.decode

    def has_ended(answer: list[int]) -> bool:
        return answer[-1] == end or (text := decode(answer)) != _stopped(text, stops)

    room = subject.model.length - most
    kept = [prompt[-room:] for prompt in prompts]
    # Alike in length, so that padding is short; longest first, so that what is too much shows soon.
    left = sorted(range(len(kept)), key=lambda number: -len(kept[number]))
    texts = [""] * len(prompts)
    with progress_line(len(prompts), label, shown=bool(label)) as progress:
        while left:
            count = max(1, subject.pass_tokens // (len(kept[left[0]]) + most))
            rows, left = left[:count], left[count:]
            answers = _continued(subject, [kept[n] for n in rows], most, has_ended)
            for number, answer in zip(rows, answers, strict=True):
                texts[number] = _stopped(decode(answer), stops)
            progress.update(len(kept) - len(left), f"{len(kept) - len(left):,} answers")
    return texts


@torch.inference_mode()
def _continued(
    subject: Subject,
    prompts: list[tuple[int, ...]],
    most: int,
    has_ended: Callable[[list[int]], bool],
) -> list[list[int]]:
    """Return the tokens behind each prompt, up to the one that ends it."""
    model, device = subject.model, subject.place.device
    answers = [list[int]() for _ in prompts]
    going = answers
    inputs, positions, is_text = (part.to(device) for part in _padded(prompts))
    mask = _causal(is_text)
    past: tuple[KeysAndValues, ...] = ()
    for _ in range(most):
        with subject.place.autocast():
            hidden, past = model.read(inputs, positions, mask, past, keeps=True)
            logits = functional.linear(hidden[:, -1], model.tokens.weight)
        chosen = logits.argmax(dim=-1)
        for answer, token in zip(going, chosen.tolist(), strict=True):
            answer.append(token)
        left = [row for row, answer in enumerate(going) if not has_ended(answer)]
        if not left:
            break
        # What has ended is dropped, and the rest goes on without it.
        going = [going[row] for row in left]
        rows = torch.tensor(left, device=device)
        past = tuple((key[rows], value[rows]) for key, value in past)
        inputs, positions = chosen[rows, None], positions[rows, -1:] + 1
        is_text = functional.pad(is_text[rows], (0, 1), value=True)
        mask = is_text[:, None, None, :]
    return answers


def _padded(prompts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, positions and where a prompt is, each (rows, length), padded on the left."""
    length = max(map(len, prompts))
    inputs = torch.zeros(len(prompts), length, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        inputs[row, length - len(prompt) :] = torch.tensor(prompt)
    starts = torch.tensor([length - len(prompt) for prompt in prompts])
    positions = torch.arange(length) - starts[:, None]
    return inputs, positions.clamp(min=0), positions >= 0


def _causal(is_text: Tensor) -> Tensor:
    """Return the mask (rows, 1, length, length) of prompts that are padded on the left."""
    causal = is_text[:, None, :].expand(-1, is_text.shape[1], -1).tril()
    # Padding reads itself: nothing at all would have no mean.
    itself = torch.eye(is_text.shape[1], dtype=torch.bool, device=is_text.device)
    return (causal | itself)[:, None]


def _stopped(text: str, stops: Sequence[str]) -> str:
    """Return the text ahead of the first stop."""
    for stop in stops:
        text = text.partition(stop)[0]
    return text
