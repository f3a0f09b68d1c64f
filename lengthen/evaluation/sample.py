"""Text from a trained model."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from lengthen.core.shuffle import sub_seed
from lengthen.exchange.pretrained import read
from lengthen.model.gpt import GPT
from lengthen.util.errors import CheckpointError, SettingError


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
    tokenizer = pretrained.tokenizer
    end = pretrained.text.separator
    text = prompt.encode("utf-8", "replace").decode()  # a shell can hand over what is no text
    start = tokenizer.encode(text, add_special_tokens=False).ids or [end]
    generator = torch.Generator().manual_seed(sub_seed(seed, "sample"))
    new = _tokens(run, pretrained.gpt(), start, tokens, temperature, top_k, generator)
    return _text(tokenizer, start, new, end)


@torch.inference_mode()
def _tokens(
    run: Path,
    model: GPT,
    start: list[int],
    count: int,
    temperature: float,
    top_k: int,
    generator: torch.Generator,
) -> Iterator[int]:
    known = list(start)
    for _ in range(count):
        # The model sees one full length; what is older falls out of its sight.
        window = torch.tensor([known[-model.length :]])
        logits = model.logits(window)[0, -1].double()
        if not logits.isfinite().all():
            rule = f"the model's logits are not finite behind {len(known)} tokens"
            raise CheckpointError(f"model {run}: {rule}; its weights are spoiled or too large")
        known.append(_choose(logits, temperature, top_k, generator))
        yield known[-1]


def _choose(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """Return a token drawn from `logits` (vocabulary,) float64; the likeliest at temperature 0."""
    if temperature == 0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        least = logits.topk(top_k).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    # From the largest down, and never by what may count as 0: nothing overflows, nothing is 0 / 0.
    least_temperature = max(temperature, sys.float_info.min)
    weights = torch.softmax((logits - logits.max()) / least_temperature, dim=-1)
    return int(torch.multinomial(weights, 1, generator=generator))


def _text(tokenizer: Tokenizer, start: list[int], tokens: Iterator[int], end: int) -> Iterator[str]:
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
