"""Sources to documents: txt, jsonl, gz and zst of both, parquet and saved datasets.

A document comes in parts, so that memory stays bounded whatever its length. Text is passed on as
it is: line ends, byte-order marks and NUL characters are kept.
"""

import codecs
import gzip
import importlib
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from lengthen.corpus.sources import Source
from lengthen.corpus.store import one_line
from lengthen.errors import SettingError, nearest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 2**20  # bytes read at once
LINE_LIMIT = 2**30  # bytes of one line of jsonl, which is held in memory several times
# Prose packs 3 to 5 to 1, logs perhaps 50 to 1, a bomb of zeros 1000 (gz) or 32000 (zst) to 1.
RATIO_LIMIT, RATIO_FROM = 300, 256 * 2**20  # checked from so many bytes on
ROWS_BYTES, ROWS_LIMIT = 16 * 2**20, 256  # of a table, read at once


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


class _UnreadableError(Exception):
    """The rest of this file cannot be read."""


def read(
    sources: Sequence[Source], field: str, *, whole_texts: bool, before: int = 0
) -> Iterator[Item]:
    """Yield every document of the sources, in order, in parts.

    `field` is the text's name in jsonl and tables. What cannot be read comes as a `Bad` where it
    stood; with `whole_texts`, a txt file is checked to its end before its first part is given, so
    that a bad one gives no part at all (it is read twice). `before` bytes are behind us already.
    """
    for source in sources:
        try:
            if source.kind == "txt":
                yield from _text(source, before, whole_texts)
            elif source.kind == "jsonl":
                yield from _lines(source, before, field)
            else:
                yield from _table(source, before, field)
        except _UnreadableError as error:
            yield Bad(f"{source.name}{error}", before + source.size)
        except OSError as error:
            reason = (error.strerror or one_line(error)).lower()
            yield Bad(f"{source.name}: cannot be read ({reason})", before + source.size)
        before += source.size


class _Unpacked(io.RawIOBase):
    """The bytes of a file, decompressed where its name says so; damage is an _UnreadableError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._stream: io.FileIO | gzip.GzipFile | zstd.ZstdFile = self._file
        if path.suffix.lower() == ".gz":
            self._stream = gzip.GzipFile(fileobj=self._file)
        elif path.suffix.lower() == ".zst":
            self._stream = zstd.ZstdFile(self._file)
        self._given = 0

    def readable(self) -> bool:
        """Say that this can be read, as `io` asks for."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, as `io` asks for."""
        try:
            data = self._stream.read(len(buffer)) or b""
        except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError) as error:
            raise _UnreadableError(f": damaged or cut off ({one_line(error)})") from None
        # Measured by what came out: a file's own word for its size can be a lie.
        self._given += len(data)
        if self._given > max(RATIO_FROM, RATIO_LIMIT * self.taken):
            reason = f"expands more than {RATIO_LIMIT} to 1; unpack it first if that is right"
            raise _UnreadableError(f": {reason}")
        buffer[: len(data)] = data
        return len(data)

    @property
    def taken(self) -> int:
        """Bytes of the file that are read so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file too; its decompressor does not."""
        self._stream.close()
        self._file.close()
        super().close()


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
    with _Unpacked(source.path) as file:
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
            raise _UnreadableError(f" line {line}, byte {byte}: invalid UTF-8") from None
        self._line += text.count("\n")
        self._start += len(block)
        return text


def _lines(source: Source, before: int, field: str) -> Iterator[Item]:
    """Read jsonl: every line is an object, and its `field` is a document; blank lines are none."""
    number = 0
    with _Unpacked(source.path) as raw, io.BufferedReader(raw, BLOCK) as file:
        while line := file.readline(LINE_LIMIT + 1):
            number += 1
            if len(line) > LINE_LIMIT:
                raise _UnreadableError(f" line {number}: is over {LINE_LIMIT} bytes")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.isspace():  # many writers leave a blank line at the end
                continue
            try:
                text = _document(line, field)
            except ValueError as error:
                yield Bad(f"{source.name} line {number}{error}", before + raw.taken)
            else:
                yield Part(text, True, before + raw.taken)


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
        raise ValueError(f": has no field {field!r}; {one_line(nearest(field, row))}")
    text = row[field]
    if not isinstance(text, str):
        raise ValueError(f": field {field!r} is not text")
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
    """Read the column `field` of a parquet file or a saved dataset; every row is a document."""
    try:
        yield from _documents_of(source, before, field)
    except (SettingError, _UnreadableError):
        raise
    except Exception as error:  # both libraries raise all kinds for a damaged file
        raise _UnreadableError(f": damaged ({one_line(error)})") from None


def _documents_of(source: Source, before: int, field: str) -> Iterator[Item]:
    open_rows = _parquet if source.kind == "parquet" else _dataset
    total, batches = open_rows(source.path, field)
    for number, text in enumerate(chain.from_iterable(batches), start=1):
        at = before + source.size * number // total
        if isinstance(text, str):
            yield Part(text, True, at)
        else:
            yield Bad(f"{source.name} row {number}: field {field!r} is not text", at)


Rows = tuple[int, Iterable[list[object]]]  # how many, and their texts batch by batch


def _parquet(path: Path, field: str) -> Rows:
    file = _library("pyarrow.parquet").ParquetFile(path)
    _find_column(field, file.schema_arrow.names)
    rows = file.metadata.num_rows
    batches = file.iter_batches(_rows_at_once(path.stat().st_size, rows), columns=[field])
    return rows, (batch.column(0).to_pylist() for batch in batches)


def _dataset(path: Path, field: str) -> Rows:
    # Through the library, not its Arrow files: a dataset may be a selection of their rows.
    data = _library("datasets").load_from_disk(str(path), keep_in_memory=False)
    _find_column(field, data.column_names)
    rows = len(data)
    column = data.select_columns([field])
    count = _rows_at_once(data.data.nbytes, rows)
    return rows, (column[start : start + count][field] for start in range(0, rows, count))


def _find_column(field: str, names: Sequence[str]) -> None:
    if field not in names:
        raise _UnreadableError(f": has no column {field!r}; {one_line(nearest(field, names))}")


def _rows_at_once(size: int, rows: int) -> int:
    return min(ROWS_LIMIT, max(1, ROWS_BYTES * rows // max(1, size)))


def _library(name: str) -> Any:
    # Imported when needed: both are large, and belong to an extra.
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        hint = "pip install 'lengthen[data]'"
        raise SettingError(
            "source", f"this format needs the package {package}", hint=hint
        ) from None
