"""Text to token ids: on all cores, in pieces that give exactly the tokens of the whole document.

Long documents are cut, for memory and for speed (small pieces stay in the processor's cache). That
is only right where the tokenizer splits anyway and does not look across. For GPT-2's byte-level
pre-tokenizer, whose expression is

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

a cut between a character that is no white space and white space after it is such a place: in no
alternative does white space follow anything, so a match ends there in the whole text; a run before
it ends there with or without what follows; the one look-ahead comes after white space, and only
asks for a character that is in the same piece. Matching goes left to right and never looks back, so
the rest is matched as in the whole. Between a letter and a character that is none it is the same:
no alternative continues from a letter to anything but a letter.

For every other tokenizer nothing is known, and a document is encoded whole.
"""

import json
import os
import re
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lengthen.data.checks import RoundTripChecker, RoundTripCounts
from lengthen.data.readers import DocumentPart, Parts
from lengthen.util.errors import DataError

PIECE = 32 * 2**10  # characters; measured: larger pieces are slower, smaller ones no faster
BATCH = 2**20  # characters that one thread encodes at a time
PIECE_COST = 100  # characters that a piece counts for by itself, for documents of a few characters
# The library takes about 130 bytes a character while it encodes; a core may hold one such piece.
WHOLE_LIMIT = 4 * 2**20  # characters that are encoded in one piece

# U+180E was white space before Unicode 6.3: tables differ, so we do not cut after it.
# The second place serves text without spaces; both lists are letters in every Unicode.
SAFE_PLACE = re.compile(
    r"(?<=[^\s\u180e])(?=[ \n])"
    r"|(?<=[A-Za-z\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])"
    r"(?=[0-9,.;:!?/+=\u3001\u3002\uff0c\uff01\uff1f])"
)


@dataclass(frozen=True)
class EncodedBatch:
    """The tokens of consecutive pieces of one split."""

    split: str  # "train" or "valid"
    ids: NDArray[np.uint32]  # (tokens,)
    documents: int  # that end here
    text_bytes: int  # of UTF-8
    bytes_read: int  # of all sources, up to here
    round_trip: RoundTripCounts


def can_be_cut(tokenizer: Tokenizer) -> bool:
    """Say whether the tokenizer splits text as GPT-2 does, and nothing else touches the text."""
    content = json.loads(tokenizer.to_str())
    splitter = content["pre_tokenizer"] or {}
    return bool(
        content["normalizer"] is None
        and content["model"]["type"] == "BPE"
        and splitter.get("type") == "ByteLevel"
        and splitter.get("use_regex", True)
        and not splitter["add_prefix_space"]
        # Special tokens are ordinary text to us; any other added token is matched first.
        and all(token["special"] for token in content["added_tokens"])
    )


def cut_documents(parts: Parts, *, cuts: bool) -> Parts:
    """Join and cut the parts of each document to pieces: at safe places if `cuts`, else not at all.

    Raises DataError for a stretch over WHOLE_LIMIT characters that may not be cut.
    """
    rest = ""
    for part in parts:
        text = rest + part.text
        start = 0
        while cuts and (place := SAFE_PLACE.search(text, start + PIECE)):
            yield replace(part, text=text[start : place.start()], is_last=False)
            start = place.start()
        rest = text[start:]
        if len(rest) > WHOLE_LIMIT:
            where = "without a space or line end" if cuts else "in one document"
            reason = f"{WHOLE_LIMIT} characters {where}, which this tokenizer must see whole"
            hint = "split that document, or take it out"
            raise DataError(f"corpus: over {reason}, from {rest[:20]!r} on; {hint}")
        if part.is_last:
            yield part if rest == part.text else replace(part, text=rest)
            rest = ""


def encode(
    tokenizer: Tokenizer, separator: int, pieces: Parts, workers: int
) -> Generator[EncodedBatch, None, None]:
    """Encode on `workers` threads and yield in order; the result does not depend on `workers`.

    The library releases the interpreter's lock, so threads use all cores, and little is waiting
    at any time: memory is bounded by the number of threads.
    """
    checker = RoundTripChecker(tokenizer, splits_as_gpt2=can_be_cut(tokenizer))
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[list[EncodedBatch]]] = deque()
    with ExitStack() as stack:
        # Threads of the library wait for the longest text of a batch; ours continue with the next.
        stack.enter_context(library_threads(False))
        # Whoever stops early, by an error or Ctrl-C, waits for the batches in work alone.
        stack.callback(pool.shutdown, cancel_futures=True)
        for batch in _batches(pieces):
            waiting.append(pool.submit(_encode_batch, tokenizer, separator, batch, checker))
            # One more than is worked on, so that no thread waits for us to read.
            if len(waiting) > workers + 1:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _encode_batch(
    tokenizer: Tokenizer, separator: int, pieces: Sequence[DocumentPart], checker: RoundTripChecker
) -> list[EncodedBatch]:
    """Encode pieces on this thread, with the separator after every document."""
    # Without a tokenizer's own special tokens: which border is where is ours to say.
    encodings = tokenizer.encode_batch_fast(
        [piece.text for piece in pieces], add_special_tokens=False
    )
    encoded: dict[str, list[tuple[DocumentPart, list[int]]]] = {}
    for piece, one in zip(pieces, encodings, strict=True):
        encoded.setdefault(piece.split, []).append((piece, one.ids))
    return [_join(of_split, separator, checker) for of_split in encoded.values()]


def _join(
    encoded: list[tuple[DocumentPart, list[int]]], separator: int, checker: RoundTripChecker
) -> EncodedBatch:
    pieces, ids = zip(*encoded, strict=True)
    rows = [np.array(own + [separator] * piece.is_last, np.uint32) for piece, own in encoded]
    return EncodedBatch(
        split=pieces[0].split,
        ids=np.concatenate(rows),
        documents=sum(piece.is_last for piece in pieces),
        text_bytes=sum(len(piece.text.encode()) for piece in pieces),
        bytes_read=pieces[-1].bytes_read,
        round_trip=checker.count([piece.text for piece in pieces], ids),
    )


def _batches(pieces: Parts) -> Iterator[list[DocumentPart]]:
    batch: list[DocumentPart] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text) + PIECE_COST
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def library_threads(wanted: bool) -> Iterator[None]:
    """Let the library use threads of its own, or not; unless either is set, it warns of forks."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true" if wanted else "false"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
