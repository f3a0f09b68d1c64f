"""Writing a store: its place, its token files, its manifest."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthen.data.store_manifest import (
    CHUNK,
    DOCUMENTS,
    MANIFEST,
    PARTS,
    FileEntry,
    Manifest,
    Provenance,
    Shard,
    manifest_bytes,
)
from lengthen.data.tokenizer import vocabulary_size
from lengthen.data.tokenizer_files import FILE_LIMIT, TOKENIZER, TextTokenizer
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError
from lengthen.util.overwrite import check_directory

NAME_LIMIT = 200  # bytes; the temporary folder's name is longer, and 255 is the most there is
NAMES = {MANIFEST, TOKENIZER, DOCUMENTS, *(f"{part}.bin" for part in PARTS)}


def check_output_folder(out: Path, overwrite: bool) -> None:
    """Refuse to write into anything but an empty place, or over anything but a store."""
    if len(os.fsencode(out.name)) > NAME_LIMIT:
        raise SettingError("out", f"its name must be at most {NAME_LIMIT} bytes", out.name)
    if out.is_symlink():  # which a directory cannot be renamed to
        raise SettingError("out", "must be a directory, no link", str(out))
    check_directory(
        out,
        "token store",
        lambda names: {MANIFEST} <= names <= NAMES,
        overwrite=overwrite,
        setting="out",
    )


class ChunkHashes:
    """SHA-256 of every CHUNK of the bytes that go through it."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks: list[Any] = []

    def update(self, data: bytes) -> None:
        """Add some bytes."""
        rest = memoryview(data)
        while rest:
            filled = self.size % CHUNK
            if not filled:
                self._chunks.append(hashlib.sha256())
            part, rest = rest[: CHUNK - filled], rest[CHUNK - filled :]
            self._chunks[-1].update(part)
            self.size += len(part)

    def hexdigests(self) -> tuple[str, ...]:
        """Return the hash of each chunk."""
        return tuple(one.hexdigest() for one in self._chunks)


class SplitWriter:
    """Writes the tokens of one split and hashes them chunk by chunk on their way."""

    def __init__(self, disk: Disk, path: Path, vocabulary: int) -> None:
        self._dtype = np.dtype(dtype_for(vocabulary)).newbyteorder("<")
        self._vocabulary = vocabulary
        self._file = disk.create(path)
        self._chunks = ChunkHashes()
        self._documents = self._text_bytes = 0

    def add(self, ids: NDArray[np.uint32], documents: int, text_bytes: int = 0) -> None:
        """Append tokens; raises DataError for an id outside of the vocabulary."""
        # Checked here, once and cheaply: in training it would be a crash far from its cause.
        largest = int(ids.max(initial=0))
        if largest >= self._vocabulary:
            raise DataError(f"tokenizer: gave id {largest}, its vocabulary is {self._vocabulary}")
        data = ids.astype(self._dtype).tobytes()
        self._file.write(data)
        self._chunks.update(data)
        self._documents += documents
        self._text_bytes += text_bytes

    def finish(self) -> Shard:
        """Force everything onto the disk and return what was written."""
        self._file.sync()
        self._file.close()
        written = self._file.written
        return Shard(
            file=self._file.path.name,
            size=written.size,
            sha256=written.sha256,
            chunks=self._chunks.hexdigests(),
            tokens=written.size // self._dtype.itemsize,
            documents=self._documents,
            text_bytes=self._text_bytes,
        )

    def close(self) -> None:
        """Close without a sync; for when something else went wrong."""
        self._file.close()


def write_manifest(
    disk: Disk,
    folder: Path,
    tokenizer: TextTokenizer,
    shards: Mapping[str, Sequence[Shard]],
    made: Provenance,
    dtype: str | None = None,
) -> Manifest:
    """Write tokenizer.json and, last of all, the manifest.

    `dtype` is that of the shards, where it is not the smaller one that holds every id.
    """
    # Written by us, not copied: two files of one tokenizer may differ in spaces and order.
    text = tokenizer.tokenizer.to_str().encode()
    if len(text) > FILE_LIMIT:
        raise DataError(f"tokenizer: its file must be at most {FILE_LIMIT} bytes")
    written = disk.write_file(folder / TOKENIZER, text)
    file = FileEntry(size=written.size, sha256=written.sha256, chunks=(written.sha256,))
    vocabulary = vocabulary_size(tokenizer.tokenizer)
    content = {
        "dtype": dtype or dtype_for(vocabulary),
        "vocabulary": vocabulary,
        "separator": tokenizer.separator,
        **{part: [shard.model_dump() for shard in shards[part]] for part in PARTS},
        "tokenizer": file.model_dump(),
        "made": made.model_dump(),
    }
    data = manifest_bytes(content)
    disk.write_file(folder / MANIFEST, data)
    return Manifest.model_validate_json(data)


def check_amount(shards: Mapping[str, Sequence[Shard]], made: Provenance) -> None:
    """Raise DataError where there is nothing to train on."""
    train, valid = (sum(shard.tokens for shard in shards[part]) for part in PARTS)
    if train + valid == 0:
        raise DataError(f"corpus: has no text; left out: {made.left_out()}")
    if train < 2:
        raise DataError(f"corpus: has {train} tokens to train on, needs at least 2")


def part_name(number: int, count: int) -> str:
    """Return the name of the folder of a part, numbered from 1."""
    return f"part-{number:05d}-of-{count:05d}"


def dtype_for(vocabulary_size: int) -> str:
    """Return the smaller of the two types that holds every id."""
    return "uint16" if vocabulary_size <= 2**16 else "uint32"
