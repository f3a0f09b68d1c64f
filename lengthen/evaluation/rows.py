"""The rows of a set's files: JSON lines, Parquet or Arrow, as datasets are published."""

import hashlib
import importlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lengthen.util.disk import lfs_pointer, read_limited
from lengthen.util.errors import DataError, SettingError, one_line

Row = dict[str, Any]

TABLES = (".parquet", ".arrow")
ARROW_FILE = b"ARROW1"
ENDINGS = (".jsonl", ".json", ".jsonl.gz", *TABLES)
SIZE_LIMIT = 2**30  # bytes of a file, packed and unpacked


def rows_of(files: Sequence[Path]) -> tuple[tuple[Row, ...], str]:
    """Return the rows of the files, in order, and the SHA-256 of their bytes in a row.

    Raises DataError for a file that cannot be read or has no rows, SettingError where the package
    that reads it is missing.
    """
    digest = hashlib.sha256()
    rows: list[Row] = []
    for file in files:
        data = read_limited(file.resolve(), SIZE_LIMIT)  # a hub's cache is made of links
        digest.update(data)
        rows += _table(file, data) if file.suffix in TABLES else _lines(file, data)
    if not rows:
        raise DataError(f"set {files[0]}: is empty; fetch it again, or name another by --sets")
    return tuple(rows), digest.hexdigest()


def _lines(file: Path, data: bytes) -> Iterator[Row]:
    if pointer := lfs_pointer(data):
        raise DataError(f"set {file}: {pointer}")
    for number, line in enumerate(_unpacked(file, data).splitlines(), start=1):
        if line.isspace() or not line:
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"set {file} line {number}: not JSON ({one_line(error)})") from None
        if not isinstance(row, dict):
            rule = "not an object; a set has one JSON object a line, and no list around them"
            raise DataError(f"set {file} line {number}: {rule}")
        yield row


def _unpacked(file: Path, data: bytes) -> bytes:
    if file.suffix != ".gz":
        return data
    text = b""
    while data:  # packed in one piece, or in several behind each other
        unpack = zlib.decompressobj(wbits=31)
        try:
            text += unpack.decompress(data, SIZE_LIMIT - len(text) + 1)
        except zlib.error as error:
            raise DataError(f"set {file}: cannot be unpacked ({one_line(error)})") from None
        if len(text) > SIZE_LIMIT:
            raise DataError(f"set {file}: must unpack to at most {SIZE_LIMIT} bytes")
        if not unpack.eof:
            raise DataError(f"set {file}: is cut off; fetch it again")
        data = unpack.unused_data.lstrip(b"\0")
    return text


def _table(file: Path, data: bytes) -> Sequence[Row]:
    if pointer := lfs_pointer(data):
        raise DataError(f"set {file}: {pointer}")
    arrow = _library("pyarrow")
    try:
        if file.suffix == ".parquet":
            table = _library("pyarrow.parquet").read_table(arrow.BufferReader(data))
        else:  # `datasets` writes a stream, others the same with an index
            is_file = data.startswith(ARROW_FILE)
            table = (arrow.ipc.open_file if is_file else arrow.ipc.open_stream)(data).read_all()
        rows: list[Row] = table.to_pylist()
    except Exception as error:  # the library raises all kinds
        raise DataError(f"set {file}: cannot be read ({one_line(error)})") from None
    return rows


def _library(name: str) -> Any:
    # Imported when needed: it is large, and belongs to an extra.
    try:
        return importlib.import_module(name)
    except ImportError:
        rule = "Parquet and Arrow files need the package pyarrow"
        raise SettingError("--sets", rule, hint="pip install 'lengthen[data]'") from None
