"""Texts to requests: which tokens are the context, and which the continuation to score."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from lengthen.data.tokenizer_files import TextTokenizer
from lengthen.util.errors import DataError, shown

Pair = tuple[str, str]  # context, continuation


@dataclass(frozen=True)
class Request:
    """Tokens to score, behind tokens to read; neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.context
        assert self.continuation

    def fits(self, full_length: int) -> bool:
        """Say whether every token to score has a token ahead of it within the full length."""
        return len(self.continuation) <= full_length

    def is_cut(self, full_length: int) -> bool:
        """Say whether the context is too long to be read whole."""
        return len(self.context) + len(self.continuation) > full_length + 1


def requests_of(text: TextTokenizer, pairs: Sequence[Pair]) -> list[Request]:
    """Return the requests for pairs of texts, divided as lm-eval's causal models divide them.

    Spaces that end a context belong to the continuation, since a token begins with its space. The
    whole is encoded at once, and what exceeds the number of the context's own tokens is the
    continuation. An empty context is the separator. Raises DataError where a continuation has no
    token.
    """
    moved = [_without_end_space(*pair) for pair in pairs]
    texts = {context for context, _ in moved} | {context + rest for context, rest in moved}
    tokens = _encoded(text.tokenizer, texts)
    return [_request(text.separator, tokens, *pair) for pair in moved]


def _without_end_space(context: str, continuation: str) -> Pair:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _encoded(tokenizer: Tokenizer, texts: set[str]) -> dict[str, tuple[int, ...]]:
    """Encode each text once: the choices of an item share their context."""
    ordered = sorted(texts)
    encodings = tokenizer.encode_batch(ordered, add_special_tokens=False)
    return {text: tuple(e.ids) for text, e in zip(ordered, encodings, strict=True)}


def _request(
    separator: int, tokens: dict[str, tuple[int, ...]], context: str, continuation: str
) -> Request:
    before, whole = tokens[context], tokens[context + continuation]
    after = whole[len(before) :]
    if not after:
        rule = "has no token of its own behind its context"
        raise DataError(f"tokenizer: the continuation {shown(continuation)} {rule}")
    return Request(before or (separator,), after)
