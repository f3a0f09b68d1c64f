"""Writing a store: its place, its token files, its manifest, and the rename that makes it one."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from lengthen.data.encode import Encoded
from lengthen.data.store import (
    CHUNK,
    FORMAT,
    MANIFEST,
    TOKENIZER,
    TOKENIZER_LIMIT,
    File,
    Made,
    Manifest,
    Split,
    content_id,
    strangers,
)
from lengthen.data.tokenizer import vocabulary
from lengthen.data.tokenizer_folder import TextTokenizer
from lengthen.util.disk import Disk, storage_errors, temporary_beside
from lengthen.util.errors import DataError, SettingError

NAME_LIMIT = 200  # bytes; the temporary folder's name is longer, and 255 is the most there is


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse to write into anything but an empty place, or over anything but a store."""
    if len(os.fsencode(out.name)) > NAME_LIMIT:
        raise SettingError("out", f"its name must be at most {NAME_LIMIT} bytes", out.name)
    for parent in out.parents:
        if os.path.exists(parent) and not parent.is_dir():
            raise SettingError("out", f"{parent} is not a folder", str(out))
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise SettingError("out", "must be a folder, or not there yet", str(out))
    with storage_errors(out):
        empty = not any(out.iterdir())
    if empty:
        return
    if not overwrite:
        raise SettingError("out", "is not empty", str(out), "--overwrite replaces an old store")
    # Somebody may have meant another folder: we delete what we know to be ours, nothing else.
    if not (out / MANIFEST).is_file() or strangers(out):
        raise SettingError("out", "holds other things than a token store", str(out))


def commit(disk: Disk, temporary: Path, out: Path) -> None:
    """Give the store its name; an old one steps aside first, and comes back if that fails."""
    if not out.exists() or not any(out.iterdir()):
        disk.commit_directory(temporary, out)
        return
    # No system call that Python has swaps two folders, so there is a moment without either.
    old = temporary_beside(out)
    disk.rename(out, old)
    try:
        disk.commit_directory(temporary, out)
    except BaseException:
        # Renamed, but perhaps not for good: then the old store is kept under its hidden name.
        if not out.exists():
            old.rename(out)
        raise
    disk.remove(old)


class SplitWriter:
    """Writes the tokens of one split and hashes them chunk by chunk on their way."""

    def __init__(self, disk: Disk, path: Path, vocabulary: int) -> None:
        self._dtype = np.dtype(dtype_for(vocabulary)).newbyteorder("<")
        self._vocabulary = vocabulary
        self._file = disk.create(path)
        self._hash, self._room = hashlib.sha256(), CHUNK
        self._chunks: list[str] = []
        self._documents = self._text_bytes = 0

    def add(self, encoded: Encoded) -> None:
        """Append tokens; raises DataError for an id outside of the vocabulary."""
        # Checked here, once and cheaply: in training it would be a crash far from its cause.
        largest = int(encoded.ids.max(initial=0))
        if largest >= self._vocabulary:
            raise DataError(f"tokenizer: gave id {largest}, its vocabulary is {self._vocabulary}")
        data = memoryview(encoded.ids.astype(self._dtype).tobytes())
        self._file.write(data)
        self._documents += encoded.documents
        self._text_bytes += encoded.text_bytes
        while data:
            part, data = data[: self._room], data[self._room :]
            self._hash.update(part)
            self._room -= len(part)
            if not self._room:
                self._end_chunk()

    def _end_chunk(self) -> None:
        self._chunks.append(self._hash.hexdigest())
        self._hash, self._room = hashlib.sha256(), CHUNK

    def finish(self) -> Split:
        """Force everything onto the disk and say what was written."""
        self._file.sync()
        self._file.close()
        if self._room < CHUNK:
            self._end_chunk()
        written = self._file.written
        return Split(
            size=written.size,
            sha256=written.sha256,
            chunks=tuple(self._chunks),
            tokens=written.size // self._dtype.itemsize,
            documents=self._documents,
            text_bytes=self._text_bytes,
        )

    def close(self) -> None:
        """Close without a sync; for when something else went wrong."""
        self._file.close()


class StoreWriter:
    """Writes the files of a store into a folder that nobody takes for a store yet."""

    def __init__(self, disk: Disk, folder: Path, tokenizer: TextTokenizer) -> None:
        self._disk, self._folder, self._tokenizer = disk, folder, tokenizer
        self._vocabulary = vocabulary(tokenizer.tokenizer)
        self._splits: dict[str, SplitWriter] = {}
        try:
            for name in ("train", "valid"):
                path = folder / f"{name}.bin"
                self._splits[name] = SplitWriter(disk, path, self._vocabulary)
        except BaseException:
            self.close()
            raise

    def add(self, encoded: Encoded) -> None:
        """Append tokens to their split."""
        self._splits[encoded.split].add(encoded)

    def finish(self, made: Made) -> Manifest:
        """Write tokenizer.json and, last of all, the manifest.

        Raises DataError where there is nothing to train on.
        """
        train, valid = (writer.finish() for writer in self._splits.values())
        if train.documents + valid.documents == 0:
            raise DataError(f"corpus: has no text; left out: {left_out(made)}")
        if train.tokens < 2:
            raise DataError(f"corpus: has {train.tokens} tokens to train on, needs at least 2")
        # Written by us, not copied: two files of one tokenizer may differ in spaces and order.
        text = self._tokenizer.tokenizer.to_str().encode()
        if len(text) > TOKENIZER_LIMIT:
            raise DataError(f"tokenizer: its file must be at most {TOKENIZER_LIMIT} bytes")
        written = self._disk.write_file(self._folder / TOKENIZER, text)
        file = File(size=written.size, sha256=written.sha256, chunks=(written.sha256,))
        content: dict[str, object] = {
            "format": FORMAT,
            "dtype": dtype_for(self._vocabulary),
            "vocabulary": self._vocabulary,
            "separator": self._tokenizer.separator,
            "train": train.model_dump(mode="json"),
            "valid": valid.model_dump(mode="json"),
            "tokenizer": file.model_dump(mode="json"),
            "made": made.model_dump(mode="json"),
        }
        named = {"id": content_id(content), **content}
        data = json.dumps(named, indent=1).encode() + b"\n"
        self._disk.write_file(self._folder / MANIFEST, data)
        return Manifest.model_validate_json(data)

    def close(self) -> None:
        """Close the files; does nothing once all is written."""
        for writer in self._splits.values():
            writer.close()


def dtype_for(vocabulary_size: int) -> str:
    """Return the smaller of the two types that holds every id."""
    return "uint16" if vocabulary_size <= 2**16 else "uint32"


def left_out(made: Made) -> str:
    """Say in a few words what is not in the store."""
    return (
        f"{made.empty} empty documents, {made.skipped} that could not be read, "
        f"{made.ignored} files of other formats, {made.held_out} of held-out splits"
    )
