"""Byte-level BPE, as GPT-2 has it: from nothing, or from GPT-2's two files."""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lengthen.data.store import TOKENIZER_LIMIT, must_be_bounded, one_line, read_limited
from lengthen.util.errors import DataError

SEPARATOR = "<|endoftext|>"
# Byte-level BPE is stored as two files, under OpenAI's own names or those of the hub.
VOCABULARY_NAMES = ("vocab.json", "encoder.json")
MERGES_NAMES = ("merges.txt", "vocab.bpe")


def byte_level(
    tokens: dict[str, int], merges: list[tuple[str, str]], *, prefix_space: bool = False
) -> Tokenizer:
    """Return the tokenizer of a vocabulary and its merges; it has no special token yet."""
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.encode_special_tokens = True
    return tokenizer


def of_bytes() -> Tokenizer:
    """Return the tokenizer whose tokens are the 256 bytes, without a separator."""
    return byte_level({_symbol(byte): byte for byte in range(256)}, [])


def first(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of the files that is in the folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def from_gpt2_files(folder: Path, *, prefix_space: bool) -> Tokenizer | None:
    """Return the tokenizer of GPT-2's two files, None where there are none.

    The merges alone are enough: then the numbers and the separator are GPT-2's. Raises DataError.
    """
    merges_file = first(folder, MERGES_NAMES)
    vocabulary_file = first(folder, VOCABULARY_NAMES)
    if merges_file is None:
        return None
    # The hub's cache holds links into its own store of files.
    lines = read_limited(merges_file.resolve(), TOKENIZER_LIMIT)
    try:
        merges = list(_merges(lines.decode("utf-8")))
        if vocabulary_file:
            tokens = json.loads(read_limited(vocabulary_file.resolve(), TOKENIZER_LIMIT))
        else:
            tokens = _tokens_of(merges)
        must_be_bounded(merges_file, tokens.values())
        return byte_level(tokens, merges, prefix_space=prefix_space)
    except DataError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(
            f"tokenizer {merges_file}: is no GPT-2 tokenizer ({one_line(error)})"
        ) from None


def _merges(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.startswith("#version"):
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise ValueError(f"line {number} is no pair of tokens")
        yield left, right


def _tokens_of(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Number the 256 bytes, one token for each merge, and the separator, as GPT-2 does."""
    symbols = sorted((_symbol(byte) for byte in range(256)), key=lambda symbol: ord(symbol))
    names = [*symbols, *(left + right for left, right in merges), SEPARATOR]
    return {name: number for number, name in enumerate(names)}


def _symbol(byte: int) -> str:
    """Return the printable character that stands for a byte in GPT-2's files.

    Printable bytes stand for themselves, the other 68 are U+0100, U+0101 ... in order.
    """
    if _is_printable(byte):
        return chr(byte)
    return chr(0x100 + sum(not _is_printable(lower) for lower in range(byte)))


def _is_printable(byte: int) -> bool:
    return 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
