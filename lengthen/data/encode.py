"""Text to token ids: on all cores, in pieces that give exactly the tokens of the whole document.

Long documents are cut, for memory and for speed (small pieces stay in the processor's cache). That
is only right where the tokenizer splits anyway and does not look across. For GPT-2's byte-level
pre-tokenizer, whose expression is

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

a cut between a character that is no white space and white space behind it is such a place: in no
alternative does white space follow anything, so a match ends there in the whole text; a run in
front of it ends there with or without what follows; the one look-ahead is behind white space, and
only asks for a character that is in the same piece. Matching goes left to right and never looks
back, so the rest is matched as in the whole. Between a letter and a character that is none it is
the same: no alternative continues from a letter to anything but a letter.

For every other tokenizer nothing is known, and a document is encoded whole.
"""

import json
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lengthen.data.losses import Losses, Watch
from lengthen.util.errors import DataError

PIECE = 32 * 2**10  # characters; measured: larger pieces are slower, smaller ones no faster
BATCH = 2**20  # characters that one thread encodes at a time
PIECE_COST = 100  # characters that a piece counts for by itself, for documents of a few characters
# The library takes about 130 bytes a character while it encodes; a core may hold one such piece.
WHOLE_LIMIT = 4 * 2**20  # characters that are encoded in one piece

# U+180E was white space before Unicode 6.3: tables differ, so we do not cut behind it.
# The second place serves text without spaces; both lists are letters in every Unicode.
SAFE = re.compile(
    r"(?<=[^\s\u180e])(?=[ \n])"
    r"|(?<=[A-Za-z\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])"
    r"(?=[0-9,.;:!?/+=\u3001\u3002\uff0c\uff01\uff1f])"
)


@dataclass(frozen=True)
class Piece:
    """A stretch of one document on its way into one split."""

    split: str  # "train" or "valid"
    text: str
    ends: bool  # the last piece of its document
    at: int  # bytes of the sources that are behind us


@dataclass(frozen=True)
class Encoded:
    """The tokens of consecutive pieces of one split."""

    split: str
    ids: NDArray[np.uint32]  # (tokens,)
    documents: int  # that end here
    text_bytes: int  # of UTF-8
    at: int
    losses: Losses


Work = Callable[[list[Piece]], list[Encoded]]


def can_be_cut(tokenizer: Tokenizer) -> bool:
    """Say whether the tokenizer splits text as GPT-2 does, and nothing else touches the text."""
    shape = json.loads(tokenizer.to_str())
    splitter = shape["pre_tokenizer"] or {}
    return bool(
        shape["normalizer"] is None
        and shape["model"]["type"] == "BPE"
        and splitter.get("type") == "ByteLevel"
        and splitter.get("use_regex", True)
        and not splitter["add_prefix_space"]
        # Special tokens are ordinary text to us; any other added token is matched first.
        and all(token["special"] for token in shape["added_tokens"])
    )


def recut(pieces: Iterator[Piece], *, cuts: bool) -> Iterator[Piece]:
    """Join and cut the pieces of each document: at safe places if `cuts`, else not at all.

    Raises DataError for a stretch over WHOLE_LIMIT characters that may not be cut.
    """
    rest = ""
    for piece in pieces:
        text = rest + piece.text
        start = 0
        while cuts and (end := _safe_place(text, start)):
            yield Piece(piece.split, text[start:end], False, piece.at)
            start = end
        rest = text[start:]
        if len(rest) > WHOLE_LIMIT:
            raise DataError(_too_long(rest, cuts))
        if piece.ends:
            yield Piece(piece.split, rest, True, piece.at)
            rest = ""


def _safe_place(text: str, start: int) -> int:
    """Return the first safe place at least a piece behind `start`, or 0."""
    found = SAFE.search(text, start + PIECE) if len(text) > start + PIECE else None
    return found.start() if found else 0


def _too_long(text: str, cuts: bool) -> str:
    if cuts:
        return (
            f"corpus: {WHOLE_LIMIT} characters without a space or line end, from {text[:20]!r} on; "
            "take that document out"
        )
    return (
        f"corpus: a document of over {WHOLE_LIMIT} characters, beginning {text[:20]!r}, and this "
        "tokenizer must see it whole; split the document, or use gpt2, bytes or train:N"
    )


def encode(
    tokenizer: Tokenizer, separator: int, pieces: Sequence[Piece], watch: Watch
) -> list[Encoded]:
    """Encode pieces on this thread, with the separator behind every document."""
    texts = [piece.text for piece in pieces]
    # Without a tokenizer's own special tokens: which border is where is ours to say.
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    encoded = [(piece, one.ids) for piece, one in zip(pieces, encodings, strict=True)]
    return [
        _joined([(piece, ids) for piece, ids in encoded if piece.split == split], separator, watch)
        for split in dict.fromkeys(piece.split for piece in pieces)
    ]


def _joined(encoded: list[tuple[Piece, list[int]]], separator: int, watch: Watch) -> Encoded:
    pieces, ids = zip(*encoded, strict=True)
    losses = watch([piece.text for piece in pieces], ids)
    ended = [np.array(own + [separator] * piece.ends, np.uint32) for piece, own in encoded]
    return Encoded(
        split=pieces[0].split,
        ids=np.concatenate(ended),
        documents=sum(piece.ends for piece in pieces),
        text_bytes=sum(len(piece.text.encode()) for piece in pieces),
        at=pieces[-1].at,
        losses=losses,
    )


def encode_all(
    tokenizer: Tokenizer, separator: int, pieces: Iterator[Piece], workers: int
) -> Generator[Encoded, None, None]:
    """Encode on `workers` threads and yield in order; the result does not depend on `workers`.

    The library releases the interpreter's lock, so threads use all cores, and little is waiting
    at any time: memory is bounded by the number of threads.
    """

    watch = Watch(tokenizer, known=can_be_cut(tokenizer))

    def work(batch: list[Piece]) -> list[Encoded]:
        return encode(tokenizer, separator, batch, watch)

    # Threads of the library wait for the longest text of a batch; ours go on to the next batch.
    with library_threads(False):
        for encoded in _in_order(work, _batches(pieces), workers):
            yield from encoded


@contextmanager
def library_threads(wanted: bool) -> Iterator[None]:
    """Let the library use threads of its own, or not; either is said, or it warns of forks."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true" if wanted else "false"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def _in_order(work: Work, batches: Iterator[list[Piece]], workers: int) -> Iterator[list[Encoded]]:
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[list[Encoded]]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(work, batch))
            # One more than is worked on, so that no thread waits for us to read.
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Whoever stops early, by an error or Ctrl-C, waits for the batches in work alone.
        pool.shutdown(cancel_futures=True)


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text) + PIECE_COST
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
