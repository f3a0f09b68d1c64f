"""Files of token ids that other tools wrote: where the ids lie in one, and the ids, block by block.

FILE.bin                      ids alone (nanoGPT)
FILE.bin                      256 int32, then the ids (llm.c, modded-nanogpt)
FILE.bin, FILE.idx            ids, and where sequences and documents begin (Megatron)
FILE.ds, FILE.ds.index        ids, and where documents end (datatrove)
a column of lists             in a table or a saved dataset
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from lengthen.data.readers import read_columns
from lengthen.data.sources import Source
from lengthen.data.store_writer import dtype_for
from lengthen.util.disk import lfs_pointer, reason_of
from lengthen.util.errors import DataError
from lengthen.util.manifest import open_regular

BLOCK = 4 * 2**20  # bytes that are read at once
HEADER = 1024  # bytes
HEADERS = {20240520: (1, "<u2"), 20240801: (7, "<u4")}  # magic: version, type of an id
MEGATRON = struct.Struct("<9sQBQQ")  # magic, version, code of the type, sequences, documents + 1
CODES = dict(enumerate(("<u1", "<i1", "<i2", "<i4", "<i8", "<f8", "<f4", "<u2"), start=1))

Ends = Callable[[int, int], NDArray[np.int64]]


class Block(NamedTuple):
    """Some of a source."""

    data: bytes  # as they lie in the file
    ids: NDArray[np.uint32]  # in the tokenizer's vocabulary
    documents: int  # that end here
    unmarked: NDArray[np.int64]  # where one ends in `ids` without a separator


@dataclass(frozen=True)
class IdFile:
    """Where the ids of a file are; `ends` gives the places in (begin, end] where documents end."""

    source: Source
    dtype: str
    offset: int = 0  # bytes before the first id
    ends: Ends | None = None  # None: where the separators are


def refuse(source: Source, reason: str) -> NoReturn:
    """Raise DataError that names a source."""
    raise DataError(f"source {source.name}: {reason}")


def locate(source: Source, vocabulary: int) -> IdFile:
    """Return where the ids of a file are; raises DataError for a header or index that is wrong."""
    with source.path.open("rb") as file:
        head = file.read(HEADER)
    if why := lfs_pointer(head):
        refuse(source, why)
    for path in (source.path, source.path.resolve()):  # a link may be one to the ids alone
        if source.kind == "bin" and (index := path.with_suffix(".idx")).is_file():
            return _megatron(source, index)
        if source.kind == "ds" and (index := Path(f"{path}.index")).is_file():
            return _datatrove(source, index)
    magic, version, count = struct.unpack("<3i", (head + bytes(12))[:12])
    dtype, offset = np.dtype(dtype_for(vocabulary)).newbyteorder("<").str, 0
    if source.kind == "bin" and magic in HEADERS:
        (known, dtype), offset = HEADERS[magic], HEADER
        if version != known:
            refuse(source, f"has a header of version {version}, only {known} is known")
        size = offset + count * np.dtype(dtype).itemsize
        if source.size != size:
            refuse(source, f"has {source.size} bytes, its header says {size}")
    if source.size % np.dtype(dtype).itemsize:
        refuse(source, f"has {source.size} bytes, which are no whole ids of type {np.dtype(dtype)}")
    start = np.frombuffer(head, dtype)
    if not (offset or start[1::2].any()) and np.count_nonzero(start) >= max(8, len(start) // 8):
        kind = np.dtype(dtype)
        refuse(source, f"has 0 as every second {kind}, so its ids are wider; write it as {kind}")
    return IdFile(source, dtype, offset)


def _megatron(source: Source, index: Path) -> IdFile:
    with index.open("rb") as file:
        head = (file.read(MEGATRON.size) + bytes(MEGATRON.size))[: MEGATRON.size]
    magic, version, code, count, documents = MEGATRON.unpack(head)
    if magic != b"MMIDIDX\0\0" or version != 1 or code not in CODES:
        refuse(source, f"{index.name} is no index of Megatron's, version 1")
    places = MEGATRON.size + np.cumsum([0, 4 * count, 8 * count, 8 * documents])
    if index.stat().st_size not in (places[3], places[3] + count):  # with modes, a byte each
        refuse(source, f"{index.name} has {index.stat().st_size} bytes, should have {places[3]}")
    lengths, starts, firsts = (
        np.memmap(index, dtype, "r", int(place), size) if size else np.empty(0, dtype)
        for dtype, place, size in zip(
            ("<i4", "<i8", "<i8"), places, (count, count, documents), strict=False
        )
    )
    width, end = np.dtype(CODES[code]).itemsize, 0
    for at in range(0, count, BLOCK):
        sizes = lengths[at : at + BLOCK].astype(np.int64) * width
        edges = end + np.append(0, np.cumsum(sizes))
        if (sizes < 0).any() or (edges[:-1] != starts[at : at + BLOCK]).any():
            refuse(source, f"{index.name} does not lay its sequences end to end")
        end = int(edges[-1])
    if not _rises(firsts, count):
        refuse(source, f"{index.name} has documents that do not follow each other")
    if end != source.size:
        refuse(source, f"has {source.size} bytes, {index.name} points to {end}")

    def ends(begin: int, stop: int) -> NDArray[np.int64]:
        among = np.searchsorted(starts, [begin * width, stop * width], side="right")
        low, high = np.searchsorted(firsts, among)
        found = starts[firsts[low:high]] // width
        return np.unique(np.append(found, stop) if stop * width == end else found)

    return IdFile(source, CODES[code], ends=ends)


def _datatrove(source: Source, path: Path) -> IdFile:
    size = path.stat().st_size
    if size % 8:
        refuse(source, f"{path.name} has {size} bytes, which are no whole ends of documents")
    index = np.memmap(path, "<u8", "r") if size else np.zeros(1, "<u8")
    count = int(index[-1])
    width = source.size // count if count else 2
    if source.size != count * width or width not in (2, 4) or not _rises(index, count):
        refuse(source, f"has {source.size} bytes, {path.name} points to token {count}")

    def ends(begin: int, stop: int) -> NDArray[np.int64]:
        low, high = np.searchsorted(index, np.array([begin, stop], np.uint64), side="right")
        return np.unique(index[low:high]).astype(np.int64)

    return IdFile(source, f"<u{width}", ends=ends)


def _rises(values: NDArray[Any], most: int) -> bool:
    blocks = (values[at : at + BLOCK + 1].astype(np.int64) for at in range(0, len(values), BLOCK))
    return all((np.diff(one, prepend=0, append=most) >= 0).all() for one in blocks)


def read_blocks(
    source: Source, file: IdFile | None, field: str, vocabulary: int, separator: int
) -> Iterator[Block]:
    """Yield the blocks of a file, or of a column of a table, row after row.

    Raises DataError for an id outside of the vocabulary.
    """
    begin, last, nowhere = 0, separator, np.empty(0, np.int64)
    ends_in = file.ends if file else None
    column = ((b"", ids) for ids in read_columns(source, field))
    for data, values in _read_file(file) if file else column:
        ids = _checked(values, vocabulary, source, begin)
        if ends_in is None:
            yield Block(data, ids, int((ids == separator).sum()), nowhere)
        else:
            ends = ends_in(begin, begin + len(ids)) - begin
            yield Block(data, ids, len(ends), ends[ids[ends - 1] != separator])
        begin, last = begin + len(ids), int(ids[-1]) if len(ids) else last
    if ends_in is None and last != separator:
        yield Block(b"", np.empty(0, np.uint32), 1, nowhere)


def _read_file(file: IdFile) -> Iterator[tuple[bytes, NDArray[Any]]]:
    """Yield the bytes of a file, the ids in them beside them."""
    try:
        with open_regular(file.source.path.resolve()) as handle:
            if file.offset:
                yield handle.read(file.offset), np.empty(0, file.dtype)
            while data := handle.read(BLOCK):
                yield data, np.frombuffer(data, file.dtype)
            if handle.tell() != file.source.size:
                raise ValueError
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it was cut meanwhile"
        refuse(file.source, f"cannot be read ({reason})")


def _checked(
    values: NDArray[Any], vocabulary: int, source: Source, begin: int
) -> NDArray[np.uint32]:
    with np.errstate(invalid="ignore"):  # of what is no number
        ids = values.astype(np.uint32)
    wrong = (ids != values) | (ids >= vocabulary)
    if wrong.any():
        at = int(wrong.argmax())
        hint = "give --tokenizer the one that made them"
        refuse(
            source, f"token {begin + at} is {values[at]}, the vocabulary has {vocabulary}; {hint}"
        )
    return ids
