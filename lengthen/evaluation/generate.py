"""Text after a prompt: the likeliest for many prompts at once, or drawn token by token for one."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from lengthen.core.shuffle import sub_seed
from lengthen.distributed.context import DistributedContext
from lengthen.evaluation.models import MICRO_TOKENS, EvalModel
from lengthen.evaluation.scoring import not_finite
from lengthen.exchange.pretrained import read
from lengthen.model.parts import KeysAndValues
from lengthen.util.console import line as progress_line
from lengthen.util.errors import SettingError

Choose = Callable[[Tensor], Tensor]  # logits (rows, vocabulary) -> tokens (rows,) int64


def generate(
    model: EvalModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    stops: Sequence[str],
    limit: int,
    label: str = "",
) -> list[str]:
    """Return the likeliest text after each prompt, up to a stop, the separator or `limit` tokens.

    A prompt loses its left end where it would leave no room for `limit` tokens, which must be
    below the full length. Raises CheckpointError where the logits are not finite.
    """
    assert 0 < limit < model.length
    stops = [*stops, model.text.separator_text]
    decode = model.tokenizer.decode
    room = model.length - limit
    kept = [prompt[-room:] for prompt in prompts]
    answers = [list[int]() for _ in prompts]

    def has_ended(number: int) -> bool:
        answer = answers[number]
        ended = answer[-1] == model.text.separator
        return ended or (text := decode(answer)) != _before_stop(text, stops)

    # Alike in length, so that padding is short; longest first: out of memory shows at once.
    left = sorted(range(len(kept)), key=lambda number: -len(kept[number]))
    with progress_line(len(prompts), label, shown=bool(label)) as progress:
        while left:
            count = max(1, model.micro_tokens // (len(kept[left[0]]) + limit))
            rows, left = {number: kept[number] for number in left[:count]}, left[count:]
            new = _continue(model, rows, limit, lambda each: each.argmax(-1), has_ended)
            for number, token in chain.from_iterable(tokens.items() for tokens in new):
                answers[number].append(token)
            progress.update(len(kept) - len(left), f"{len(kept) - len(left):,} answers")
    return [_before_stop(decode(answer), stops) for answer in answers]


def sample(
    run: Path,
    *,
    prompt: str = "",
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
) -> Iterator[str]:
    """Yield the text that follows `prompt`, piece by piece.

    `run` is a run, whose newest good checkpoint is taken, or a Transformers folder. The same seed
    gives the same text. An empty prompt begins a document; the separator ends the text. Raises
    SettingError, CheckpointError (also for logits that are not finite) and what
    `exchange.pretrained.read` raises beside them.
    """
    if tokens < 1:
        raise SettingError("--tokens", "must be at least 1", tokens)
    if not 0 <= temperature < math.inf:
        raise SettingError("--temperature", "must be at least 0, and finite", temperature)
    if top_k < 0:
        raise SettingError("--top-k", "must be at least 0, which keeps all", top_k)
    pretrained = read(run)
    gpt, context = pretrained.gpt(), DistributedContext(torch.device("cpu"))
    model = EvalModel(str(run), gpt, pretrained.text, context, MICRO_TOKENS)
    text = prompt.encode("utf-8", "replace").decode()  # a shell can pass bytes that are no text
    end = model.text.separator
    start = tuple(model.tokenizer.encode(text, add_special_tokens=False).ids) or (end,)
    generator = torch.Generator().manual_seed(sub_seed(seed, "sample"))

    def choose(logits: Tensor) -> Tensor:
        return _draw(logits, temperature, top_k, generator)

    new = (one[0] for one in _continue(model, {0: start}, tokens, choose, lambda _: False))
    return _text(model.tokenizer, start, new, end)


@torch.inference_mode()
def _continue(
    model: EvalModel,
    prompts: dict[int, tuple[int, ...]],
    count: int,
    choose: Choose,
    has_ended: Callable[[int], bool],
) -> Iterator[dict[int, int]]:
    """Yield the next token of each prompt, by its number, at most `count` times.

    After each time a prompt for which `has_ended` is true is left out. The model reads at most one
    full length: beyond it the oldest tokens are dropped.
    """
    gpt, device, length = model.gpt, model.context.device, model.length
    rows = list(prompts)
    text, is_text = (part.to(device) for part in _padded([p[-length:] for p in prompts.values()]))
    past: tuple[KeysAndValues, ...] = ()
    for _ in range(count):
        if text.shape[1] > length:  # every token moves to another position: nothing can be kept
            text, is_text, past = text[:, -length:], is_text[:, -length:], ()
        first = text.shape[1] - 1 if past else 0
        positions = (is_text.cumsum(dim=1) - 1).clamp(min=0)
        mask = is_text[:, None, None, :] if past else _causal(is_text)
        with model.context.autocast():
            hidden, past = gpt.read(text[:, first:], positions[:, first:], mask, past, keeps=True)
            logits = functional.linear(hidden[:, -1], gpt.output)
        if not logits.isfinite().all():
            raise not_finite(model.name)
        chosen = choose(logits)
        yield dict(zip(rows, chosen.tolist(), strict=True))
        left = [index for index, row in enumerate(rows) if not has_ended(row)]
        if not left:
            return
        kept = torch.tensor(left, device=device)
        rows = [rows[index] for index in left]
        past = tuple((key[kept], value[kept]) for key, value in past)
        text = torch.cat([text[kept], chosen[kept, None]], dim=1)
        is_text = functional.pad(is_text[kept], (0, 1), value=True)


def _padded(prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Return tokens and where a prompt is, each (rows, length), padded on the left."""
    rows = [torch.tensor(prompt, device="cpu") for prompt in prompts]
    text = pad_sequence(rows, batch_first=True, padding_side="left")
    length = text.shape[1]
    starts = text.new_tensor([length - len(row) for row in rows])
    return text, torch.arange(length, device="cpu") >= starts[:, None]


def _causal(is_text: Tensor) -> Tensor:
    """Return the mask (rows, 1, length, length) of prompts that are padded on the left."""
    causal = is_text[:, None, :].expand(-1, is_text.shape[1], -1).tril()
    # Padding reads itself: nothing at all would have no mean.
    itself = torch.eye(is_text.shape[1], dtype=torch.bool, device=is_text.device)
    return (causal | itself)[:, None]


def _draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
    """Return tokens drawn from `logits` (rows, vocabulary); the likeliest at temperature 0."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.double()
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    # From the largest down, and never by what may count as 0: nothing overflows, nothing is 0 / 0.
    least_temperature = max(temperature, sys.float_info.min)
    largest = logits.max(dim=-1, keepdim=True).values
    weights = torch.softmax((logits - largest) / least_temperature, dim=-1)
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def _text(
    tokenizer: Tokenizer, start: tuple[int, ...], tokens: Iterator[int], end: int
) -> Iterator[str]:
    """Yield text as it becomes certain: a character may be spread over several tokens."""
    # With the prompt: many a tokenizer gives a text's first token without its space.
    known = list(start)
    shown = tokenizer.decode(known)
    for token in tokens:
        if token == end:
            break
        known.append(token)
        text = tokenizer.decode(known)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    yield tokenizer.decode(known)[len(shown) :]


def _before_stop(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text
