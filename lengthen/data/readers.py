"""Sources to documents: txt, jsonl, gz and zst of both, and tables.

A document comes in parts, so that memory stays bounded whatever its length. Text is passed on as
it is: line ends, byte-order marks and NUL characters are kept.
"""

import codecs
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lengthen.data.columns import rows
from lengthen.data.sources import Source
from lengthen.data.store import one_line
from lengthen.data.unpack import BLOCK, RefusedError, Unpacked, UnreadableError
from lengthen.util.errors import DataError, nearest

LINE_LIMIT = 2**30  # bytes of one line of jsonl, which is held in memory several times


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one document; only an empty document has a part without text."""

    text: str
    ends: bool  # the last part of its document
    at: int  # bytes of the sources that are behind us


@dataclass(frozen=True, slots=True)
class Bad:
    """Something that cannot be read, and is no part of any document."""

    reason: str  # one line: the file, the place, the cause
    at: int


Item = Part | Bad


def read(
    sources: Sequence[Source], field: str, *, whole_texts: bool, before: int = 0
) -> Iterator[Item]:
    """Yield every document of the sources, in order, in parts.

    `field` is the text's name in jsonl and tables. What cannot be read comes as a `Bad` where it
    stood; with `whole_texts`, a txt file is checked to its end before its first part is given, so
    that a bad one gives no part at all (it is read twice). `before` bytes are behind us already.
    Raises DataError for a file that is whole, and can only be read otherwise: to leave that out
    would not be to leave out damage.
    """
    for source in sources:
        try:
            if source.kind == "txt":
                yield from _text(source, before, whole_texts)
            elif source.kind == "jsonl":
                yield from _lines(source, before, field)
            else:
                yield from _table(source, before, field)
        except UnreadableError as error:
            yield Bad(f"{source.name}{error}", before + source.size)
        except RefusedError as error:
            raise DataError(f"source {source.name}{error}") from None
        except OSError as error:
            reason = (error.strerror or one_line(error)).lower()
            yield Bad(f"{source.name}: cannot be read ({reason})", before + source.size)
        before += source.size


def _text(source: Source, before: int, whole: bool) -> Iterator[Item]:
    """Read a txt file, which is one document."""
    if whole:
        for _ in _blocks(source, before):
            pass
    # One block is held back, since the last one has to say that it is the last.
    held = Part("", False, before)
    for part in _blocks(source, before):
        if held.text:
            yield held
        held = part
    yield replace(held, ends=True)


def _blocks(source: Source, before: int) -> Iterator[Part]:
    decode = _Decoder()
    with Unpacked(source.path) as file:
        while block := file.read(BLOCK):
            yield Part(decode(block), False, before + file.taken)
        decode(b"", final=True)


class _Decoder:
    """Decodes UTF-8 block by block, and says at which line and byte it is none."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._line, self._start = 1, 0

    def __call__(self, block: bytes, final: bool = False) -> str:
        waiting = len(self._decoder.getstate()[0])  # bytes of a character that a block's end cut
        try:
            text = self._decoder.decode(block, final)
        except UnicodeDecodeError as error:
            line = self._line + error.object.count(b"\n", 0, error.start)
            byte = self._start - waiting + error.start
            raise UnreadableError(f" line {line}, byte {byte}: invalid UTF-8") from None
        self._line += text.count("\n")
        self._start += len(block)
        return text


def _lines(source: Source, before: int, field: str) -> Iterator[Item]:
    """Read jsonl: every line is an object, and its `field` is a document; blank lines are none."""
    number = read = 0
    without: _FieldError | None = None
    with Unpacked(source.path) as raw, io.BufferedReader(raw, BLOCK) as file:
        while line := file.readline(LINE_LIMIT + 1):
            number += 1
            if len(line) > LINE_LIMIT:
                raise UnreadableError(f" line {number}: is over {LINE_LIMIT} bytes")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip() in (b"[", b"{") or line.startswith(b"[{"):
                    raise RefusedError(": is JSON, not an object a line; `jq -c '.[]'` makes that")
            if line.isspace():  # many writers leave a blank line at the end
                continue
            try:
                text = _document(line, field)
            except ValueError as error:
                without = error if isinstance(error, _FieldError) else without
                yield Bad(f"{source.name} line {number}{error}", before + raw.taken)
            else:
                read += 1
                yield Part(text, True, before + raw.taken)
    # Not some bad lines, but another name for the text than the one that was asked for.
    if without and not read:
        raise RefusedError(f": no line gives text{without}")


class _FieldError(ValueError):
    """A line has no text under the name that was asked for."""


def _document(line: bytes, field: str) -> str:
    """Return the text of a line; raises ValueError with the rest of a message."""
    try:
        decoded = line.decode("utf-8")
        row = json.loads(decoded)
    except UnicodeDecodeError as error:
        raise ValueError(f", byte {error.start}: invalid UTF-8") from None
    except RecursionError:
        raise ValueError(": JSON is nested too deep") from None
    except ValueError as error:
        raise ValueError(f": not JSON ({one_line(error)})") from None
    if not isinstance(row, dict):
        raise ValueError(": not an object")
    if field not in row:
        raise _FieldError(f": has no field {field!r}; {one_line(nearest(field, row))} (--field)")
    text = row[field]
    if not isinstance(text, str):
        raise _FieldError(f": field {field!r} is not text")
    # Only an escape can make one, so that most lines are not encoded for the sake of it.
    if "\\u" in decoded and not _is_unicode(text):
        raise ValueError(f": field {field!r} has half a surrogate pair")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _table(source: Source, before: int, field: str) -> Iterator[Item]:
    """Read the column `field` of a table; every row is a document."""
    for number, (text, share) in enumerate(rows(source, field), start=1):
        at = before + int(source.size * share)
        if isinstance(text, str):
            yield Part(text, True, at)
        else:
            cause = "invalid UTF-8" if isinstance(text, bytes) else "not text"
            yield Bad(f"{source.name} row {number}: field {field!r} is {cause}", at)
