"""Sources to documents: txt, jsonl (each also compressed), parquet, Arrow, saved datasets.

A document comes in parts, so that memory stays bounded whatever its length. Text is passed on as
it is: line ends, byte-order marks and NUL characters are kept.
"""

import codecs
import importlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthen.data.decompress import (
    DamagedFileError,
    DecompressedFile,
    UnsupportedFileError,
    check_format,
    read_head,
)
from lengthen.data.sources import Source
from lengthen.util.disk import reason_of
from lengthen.util.errors import DataError, LengthenError, SettingError, nearest, one_line

BLOCK = 2**20  # bytes of a txt file that are read at once
LINE_LIMIT = 2**30  # bytes of one line of jsonl, which is in memory several times
LISTED = 10  # problems in a summary
BATCH_BYTES, BATCH_ROWS = 16 * 2**20, 256  # of a table, read at once


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """A stretch of one document; only an empty document has a part without text."""

    text: str
    is_last: bool  # of its document
    bytes_read: int  # of all sources, up to here
    split: str = "train"  # or "valid"


Parts = Iterator[DocumentPart]


@dataclass
class LeftOut:
    """Counts what is not read; a problem stops everything unless `on_bad` is "skip"."""

    on_bad: str
    empty: int = 0  # documents
    skipped: int = 0  # documents or files that cannot be read
    problems: list[str] = field(default_factory=list)  # the first few

    def add_empty(self) -> None:
        """Count a document without a character."""
        self.empty += 1

    def clear(self) -> None:
        """Forget what was left out so far: it stands before the part that is read."""
        self.empty = self.skipped = 0
        self.problems.clear()

    def add_problem(self, message: str) -> None:
        """Count what cannot be read; `message` is one line: the file, the place, the cause."""
        if self.on_bad == "stop":
            raise DataError(
                f"source {message}; mend it, or leave it out by `lengthen prepare --on-bad skip`"
            )
        self.skipped += 1
        if len(self.problems) < LISTED:
            self.problems.append(message)


def read_documents(
    sources: Sequence[Source], field: str, left_out: LeftOut, *, bytes_before: int = 0
) -> Parts:
    """Yield every document of the sources, in order, in parts.

    `field` is the text's name in jsonl and tables. `bytes_before` counts the sources that were read
    before these. Raises DataError for a problem that `left_out` does not skip, and for a file that
    is whole, and can only be read otherwise: to leave that out would not be to leave out damage.
    """
    for source in sources:
        read = {"txt": _read_txt, "jsonl": _read_jsonl}.get(source.kind, _read_table)
        try:
            yield from read(source, bytes_before, field, left_out)
        except UnsupportedFileError as error:
            raise DataError(f"source {source.name}{error}") from None
        except DamagedFileError as error:
            left_out.add_problem(f"{source.name}{error}")
        except OSError as error:
            left_out.add_problem(f"{source.name}: cannot be read ({reason_of(error)})")
        bytes_before += source.size


def _read_txt(source: Source, before: int, _field: str, left_out: LeftOut) -> Parts:
    """Read a txt file, which is one document."""
    if left_out.on_bad == "skip":  # nothing of a damaged text is to be in the store
        for _ in _decoded_blocks(source, before):
            pass
    # One block waits, since the last one has to say that it is the last.
    waiting = DocumentPart("", False, before)
    for part in _decoded_blocks(source, before):
        if waiting.text:
            yield waiting
        waiting = part
    yield replace(waiting, is_last=True)


def _decoded_blocks(source: Source, before: int) -> Parts:
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, start = 1, 0  # of the block
    with DecompressedFile(source.path) as file:
        # The empty block at the end tells the decoder that no character may be unfinished.
        for block in chain(iter(lambda: file.read(BLOCK), b""), [b""]):
            unfinished = len(decoder.getstate()[0])  # bytes of a character that the last block cut
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                byte = start - unfinished + error.start
                raise DamagedFileError(f" line {line}, byte {byte}: invalid UTF-8") from None
            line += text.count("\n")
            start += len(block)
            if text:
                yield DocumentPart(text, False, before + file.bytes_read)


def _read_jsonl(source: Source, before: int, field: str, left_out: LeftOut) -> Parts:
    """Read jsonl: every line is an object, and its `field` is a document; blank lines are none."""
    number = documents = 0
    missing: _MissingTextError | None = None
    with DecompressedFile(source.path) as raw, io.BufferedReader(raw, BLOCK) as file:
        while line := file.readline(LINE_LIMIT + 1):
            number += 1
            if len(line) > LINE_LIMIT:
                raise DamagedFileError(f" line {number}: is over {LINE_LIMIT} bytes")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.isspace():  # many writers leave a blank line at the end
                continue
            try:
                text = _text_of_line(line, field)
            except ValueError as error:
                missing = error if isinstance(error, _MissingTextError) else missing
                left_out.add_problem(f"{source.name} line {number}{error}")
            else:
                documents += 1
                yield DocumentPart(text, True, before + raw.bytes_read)
    # Not some bad lines, but another name for the text than the one that was asked for.
    if missing and not documents:
        raise UnsupportedFileError(f": no line gives text{missing}")


class _MissingTextError(ValueError):
    """A line has no text under the name that was asked for."""


def _text_of_line(line: bytes, field: str) -> str:
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
        raise ValueError(": not an object; each line must be one")
    if field not in row:
        hint = one_line(nearest(field, row))
        raise _MissingTextError(f": has no field {field!r}; {hint} (--field)")
    text = row[field]
    if not isinstance(text, str):
        raise _MissingTextError(f": field {field!r} is not text")
    # Only an escape can make half a pair, so that most lines are not encoded to find out.
    if "\\u" in decoded:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f": field {field!r} has half a surrogate pair") from None
    return text


def _read_table(source: Source, before: int, field: str, left_out: LeftOut) -> Parts:
    """Read the column `field` of a table; every row is a document."""
    try:
        if source.kind != "dataset":
            check_format(read_head(source.path), source.kind)
        total, columns = OPEN_TABLE[source.kind](source.path, field)
        texts = chain.from_iterable(column.to_pylist() for column in columns)
        for number, text in enumerate(texts, start=1):
            if isinstance(text, str):
                yield DocumentPart(text, True, before + source.size * number // total)
            else:
                left_out.add_problem(f"{source.name} row {number}: field {field!r} is not text")
    except (LengthenError, DamagedFileError, UnsupportedFileError):
        raise
    except Exception as error:  # both libraries raise all kinds
        raise _explain(source, error) from None


def holds_ids(source: Source, field: str) -> bool | None:
    """Say whether a source is one of token ids, by its suffix or by the type of its column.

    None where that is not known, of a table without rows.
    """
    if source.kind in OPEN_TABLE:
        with suppress(Exception):  # whatever is wrong: who reads it as text will say so
            rows, columns = OPEN_TABLE[source.kind](source.path, field)
            return next(_is_ids(column.type) for column in columns) if rows else None
    return source.kind in ("bin", "ds")


def has_rows(source: Source) -> bool:
    """Say whether a source is anything but a table without rows."""
    with suppress(Exception):  # a table with rows is refused for want of a column ""
        return source.kind not in OPEN_TABLE or OPEN_TABLE[source.kind](source.path, "")[0] > 0
    return True


def read_columns(source: Source, field: str) -> Iterator[NDArray[Any]]:
    """Yield the ids of the column `field` of a table, some rows at a time; raises DataError."""
    flatten = _import_library("pyarrow.compute").list_flatten
    try:
        for column in OPEN_TABLE[source.kind](source.path, field)[1]:
            if not _is_ids(column.type):
                raise UnsupportedFileError(f": field {field!r} is not token ids, as others are")
            yield np.asarray(flatten(column))
    except LengthenError:
        raise
    except Exception as error:  # both libraries raise all kinds
        known = isinstance(error, DamagedFileError | UnsupportedFileError)
        raise DataError(
            f"source {source.name}{error if known else _explain(source, error)}"
        ) from None


def _explain(source: Source, error: Exception) -> Exception:
    """Return the error that says whether a table is damaged, by what a library raised."""
    arrow = _import_library("pyarrow").ArrowInvalid
    damage = arrow | OSError | EOFError | json.JSONDecodeError | UnicodeDecodeError
    if isinstance(error, damage) and "crypt" not in str(error):  # an encrypted file is whole
        return DamagedFileError(f": damaged ({one_line(error)})")
    package = _import_library("datasets" if source.kind == "dataset" else "pyarrow")
    reason = f"{package.__name__} {package.__version__} cannot open it ({one_line(error)})"
    return UnsupportedFileError(f": {reason}; write it again with it, or as .jsonl")


Columns = Iterable[Any]  # Arrow arrays


def _open_parquet(path: Path, field: str) -> tuple[int, Columns]:
    """Return how many rows a table has, and its column of text, batch by batch."""
    file = _import_library("pyarrow.parquet").ParquetFile(path)
    if not (total := file.metadata.num_rows):
        return 0, ()  # whatever type the writer gave a column of nothing
    _check_column(field, file.schema_arrow)
    batches = file.iter_batches(_batch_rows(path.stat().st_size, total), columns=[field])
    return total, (batch.column(field) for batch in batches)


def _open_arrow(path: Path, field: str) -> tuple[int, Columns]:
    arrow = _import_library("pyarrow")
    data = arrow.memory_map(str(path))
    # Two formats share the suffix; `datasets` writes streams.
    is_file = data.read(6) == b"ARROW1"
    data.seek(0)
    table = (arrow.ipc.open_file if is_file else arrow.ipc.open_stream)(data).read_all()
    if not table.num_rows:
        return 0, ()
    _check_column(field, table.schema)
    rows = _batch_rows(table.nbytes, table.num_rows)
    batches = table.select([field]).to_batches(max_chunksize=rows)
    return table.num_rows, (batch.column(0) for batch in batches)


def _open_dataset(path: Path, field: str) -> tuple[int, Columns]:
    library = _import_library("datasets")
    if not json.loads((path / "state.json").read_text())["_data_files"]:
        return 0, ()  # no rows at all, for which the library fails
    # Through the library, not its Arrow files: a dataset may be a selection of their rows.
    data = library.load_from_disk(str(path), keep_in_memory=False).with_format("arrow")
    _check_column(field, data.data.schema)
    rows = _batch_rows(data.data.nbytes, len(data))
    return len(data), (batch.column(0) for batch in data.select_columns([field]).iter(rows))


OPEN_TABLE = {"parquet": _open_parquet, "arrow": _open_arrow, "dataset": _open_dataset}


def _check_column(field: str, schema: Any) -> None:
    types = [column.type for column in schema if column.name == field]
    known = {column.name: _is_text(column.type) or _is_ids(column.type) for column in schema}
    if len(types) != 1 or not known[field]:
        names = ", ".join(repr(name) for name, fits in known.items() if fits) or "none"
        reason = f"needs one column {field!r} of text, has {', '.join(map(str, types)) or 'none'}"
        reason = f"{one_line(reason)}; columns of text or of ids: {one_line(names)} (--field)"
        raise UnsupportedFileError(f": {reason}")


def _is_text(kind: Any) -> bool:
    types = _import_library("pyarrow").types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_ids(kind: Any) -> bool:
    types = _import_library("pyarrow").types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and types.is_integer(kind.value_type))


def _batch_rows(size: int, rows: int) -> int:
    return min(BATCH_ROWS, max(1, BATCH_BYTES * rows // max(1, size)))


def _import_library(name: str) -> Any:
    # Imported when needed: both are large, and belong to an extra.
    try:
        return importlib.import_module(name)
    except ImportError:
        rule = f"this format needs the package {name.partition('.')[0]}"
        raise SettingError("source", rule, hint="pip install pyarrow datasets") from None
