"""Where the keys of a picture stand: beside its title, or on lines of their own below it."""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

from lengthen.util.errors import printable

LINE = 18  # pixels from one line of keys to the next
SAMPLE = 28  # from the start of a key's stroke to its name
GAP = 20  # between two keys, and between the title and the first
NARROW, SYMBOLS, BROAD = " fijlrtI.,:;'|!/\\()[]-", "+=<>~#^&", "mwMW@%"
CONTEXT = 12  # characters that are alike, kept before the first that differ


@dataclass(frozen=True)
class Key:
    """One name of a legend, in its place."""

    name: str  # printable, whole
    text: str  # what of it has room
    x: int  # where its stroke begins, pixels
    line: int  # 0 is that of the title


def laid(names: Sequence[str], clear: int, left: int, right: int) -> Iterator[Key]:
    """Yield the key of each name, between the pixels `left` and `right`.

    They stand beside the title, which ends at `clear`, where there is room for all, else below it.
    """
    names = [printable(name) for name in names]
    texts = shortened(names, right - left - SAMPLE)
    spans = [SAMPLE + width(text) for text in texts]
    x, line = right - sum(spans) - GAP * (len(spans) - 1), 0
    if x < clear + GAP:
        x, line = left, 1
    for name, text, span in zip(names, texts, spans, strict=True):
        if x + span > right:
            x, line = left, line + 1
        yield Key(name, text, x, line)
        x += span + GAP


def width(text: str) -> int:
    """Return the pixels that small text takes: those of a broad font, so others take fewer."""
    return sum(map(_advance, text))


def _advance(character: str) -> int:
    if not character.isascii():
        return 16 if unicodedata.east_asian_width(character) in "WF" else 14
    if character in NARROW:
        return 5
    if character in BROAD:
        return 12
    return 10 if character.isupper() or character in SYMBOLS else 8


def shortened(names: Sequence[str], room: int) -> list[str]:
    """Return the names, cut to `room` pixels where they are wider, and still told apart.

    Their ends are kept, as of paths; where those are alike, what follows the first difference.
    """
    ends = [_front(name[::-1], room)[::-1] for name in names]
    if len(set(ends)) == len(set(names)):
        return ends
    wide = [name for name in names if width(name) > room]
    alike = takewhile(lambda here: len(set(here)) == 1, zip(*wide, strict=False))
    skipped = max(0, len(list(alike)) - CONTEXT)
    return [_front("…" * (skipped > 0) + n[skipped:] if n in wide else n, room) for n in names]


def _front(text: str, room: int) -> str:
    ends = list(accumulate(map(_advance, text)))
    if not ends or ends[-1] <= room:
        return text
    return text[: bisect_right(ends, room - width("…"))] + "…"
