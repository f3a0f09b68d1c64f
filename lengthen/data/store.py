"""The token store: a directory with the tokens of a corpus, and a manifest over every byte of it.

    DIR/manifest.json     what is in here, how it was made, SHA-256 of every 64 MiB of every file
    DIR/train.bin         token ids, little-endian uint16 or uint32, nothing else
    DIR/valid.bin         the same; may be empty
    DIR/tokenizer.json    what turns ids back into text, so that a store is enough to sample from

The names are fixed and no link is followed, so nothing outside the directory is ever opened.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tokenizers import Tokenizer

from lengthen.data.tokenizer_files import (
    FILE_LIMIT,
    TOKENIZER,
    TextTokenizer,
    first_problem,
    parse_tokenizer,
)
from lengthen.util.disk import as_path, read_limited
from lengthen.util.errors import DataError
from lengthen.util.manifest import damage
from lengthen.util.tables import counted

FORMAT = 1
CHUNK = 64 * 2**20  # bytes; damage is located to one of these
MANIFEST_LIMIT = 16 * 2**20  # bytes
REPAIR = "prepare it again, or copy it again"
MANIFEST = "manifest.json"
NAMES = (MANIFEST, "train.bin", "valid.bin", TOKENIZER)

Tokens = NDArray[np.uint16] | NDArray[np.uint32]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestModel(BaseModel):
    """A part of a manifest: nothing converted, nothing unknown let through."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FileEntry(ManifestModel):
    """One file as it was written."""

    size: Count  # bytes
    sha256: Sha256
    chunks: tuple[Sha256, ...]  # of every CHUNK bytes

    @model_validator(mode="after")
    def _has_every_chunk(self) -> "FileEntry":
        if len(self.chunks) != -(-self.size // CHUNK):
            raise ValueError("the number of chunks does not fit the size")
        return self


class SplitEntry(FileEntry):
    """The training or the validation part."""

    tokens: Count  # separators included
    documents: Count
    text_bytes: Count  # of UTF-8, separators not included


class Provenance(ManifestModel):
    """How a store was made; not part of the id, since it says nothing about the content."""

    sources: tuple[str, ...]  # base names as given, the first hundred
    valid_sources: tuple[str, ...]
    files: Count
    ignored: Count  # files in source folders that are no text format
    tokenizer: str
    valid: float  # share asked for
    seed: int
    field: str
    empty: Count  # documents without a character
    skipped: Count  # documents or files that could not be read
    # Not counted in older stores: 0 there.
    held_out: Count = 0  # files of a split that is not used
    repeated: Count = 0  # documents that stand in the store more than once, the first not counted
    leaked: Count = 0  # validation documents that also stand in the training part
    compared: Count = 0  # characters whose tokens were decoded again
    lost: Count = 0  # of them, that did not come back
    unknown: Count = 0  # tokens
    spelled: Count = 0  # spellings of special tokens in the text; they stayed ordinary text

    def left_out(self) -> str:
        """Say in a few words what is not in the store."""
        return (
            f"{counted(self.empty, 'empty document')}, {self.skipped} that could not be read, "
            f"{counted(self.ignored, 'file')} of other formats, {self.held_out} of held-out splits"
        )


class Manifest(ManifestModel):
    """Everything about a store but its tokens."""

    format: Literal[1]  # first, so that another version is refused for this reason
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    dtype: Literal["uint16", "uint32"]
    vocabulary: Annotated[int, Field(ge=1, le=2**32)]
    separator: Count  # the token after every document
    train: SplitEntry
    valid: SplitEntry
    tokenizer: FileEntry
    made: Provenance

    @model_validator(mode="after")
    def _fits_together(self) -> "Manifest":
        for split in (self.train, self.valid):
            if split.size != split.tokens * np.dtype(self.dtype).itemsize:
                raise ValueError("a number of tokens does not fit its file's size")
        if self.separator >= self.vocabulary:
            raise ValueError("the separator is not in the vocabulary")
        if self.id != content_id(self.model_dump(mode="json")):
            raise ValueError("the id does not fit the content")
        return self

    def validation(self) -> dict[str, str | int]:
        """Return what environment.json says of the part that validation losses are of."""
        valid = self.valid
        return {
            "valid": valid.sha256,
            "valid_tokens": valid.tokens,
            "valid_bytes": valid.text_bytes,
        }

    def files(self) -> dict[str, FileEntry]:
        """Return the files that the manifest covers, by name."""
        return {"train.bin": self.train, "valid.bin": self.valid, TOKENIZER: self.tokenizer}


def content_id(manifest: dict[str, object]) -> str:
    """Return 32 hexadecimal digits of all but the id itself and the way the store was made."""
    content = {name: manifest[name] for name in sorted(manifest.keys() - {"id", "made"})}
    # One spelling for one content: sorted names, no spaces.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Store:
    """An open store; the tokens stay on the disk and are mapped, read-only.

    >>> store = lengthen.Store.open("store")
    >>> len(store.train), store.train[:4].tolist(), store.vocabulary
    (48277, [48, 32, 116, 104], 257)
    """

    path: Path
    manifest: Manifest = field(repr=False)  # its hashes are many
    train: Tokens  # (tokens,)
    valid: Tokens  # (tokens,), maybe none

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Open the store in a directory; the cost does not depend on its size.

        Raises DataError where a file is missing, of another size, or no regular file, and where
        the manifest does not hold together. Bytes are compared by `verify` alone.
        """
        path = as_path("path", path)
        manifest = read_manifest(path)
        _check_files(path, manifest)
        tokens = [_map_tokens(path / f"{name}.bin", manifest.dtype) for name in ("train", "valid")]
        return cls(path, manifest, *tokens)

    def check_files(self) -> None:
        """Raise DataError where a file has changed its size since, as `open` would."""
        _check_files(self.path, self.manifest)

    def sequences(self, length: int) -> int:
        """Return N, the number of sequences of `length` tokens in the training part.

        Each has a target for its last token, which may be the first token of the next sequence.
        """
        return (len(self.train) - 1) // length

    @property
    def id(self) -> str:
        """32 hexadecimal digits: equal for equal tokens, tokenizer and counts."""
        return self.manifest.id

    @property
    def vocabulary(self) -> int:
        """One more than the largest token id."""
        return self.manifest.vocabulary

    @property
    def separator(self) -> int:
        """The token after every document."""
        return self.manifest.separator

    def tokenizer(self) -> Tokenizer:
        """Load the store's tokenizer; raises DataError where it is not the one written here."""
        path = self.path / TOKENIZER
        data = read_limited(path, FILE_LIMIT)
        actual = hashlib.sha256(data).hexdigest()
        if actual != (expected := self.manifest.tokenizer.sha256):
            reason = f"has sha256 {actual[:16]}, the manifest says {expected[:16]}; {REPAIR}"
            raise DataError(f"store {self.path}: {TOKENIZER} {reason}")
        return parse_tokenizer(data, path)

    def text_tokenizer(self) -> TextTokenizer:
        """Load the store's tokenizer with its separator; raises DataError as `tokenizer` does."""
        return TextTokenizer(self.tokenizer(), self.separator)


def read_manifest(path: Path) -> Manifest:
    """Read and check a store's manifest; raises DataError."""
    if not os.path.lexists(path / MANIFEST):
        foreign = [one for one in (path, *sorted(path.glob("*.bin"))) if one.suffix == ".bin"]
        why = f", {foreign[0].name} lacks a manifest" if foreign else ""
        raise DataError(f"store {path}: no token store is there{why}; `lengthen prepare` makes one")
    data = read_limited(path / MANIFEST, MANIFEST_LIMIT)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        reason = first_problem(error)
        if reason.startswith("format: "):
            reason = f"{reason}, the one format that this version reads"
        raise DataError(f"file {path / MANIFEST}: cannot be used ({reason})") from None


def verify(path: str | Path) -> list[str]:
    """Compare every byte of a store with its manifest.

    Returns one line for each damage, with file and byte range (64 MiB at the finest); an empty
    list where all is well. The memory used is constant.
    """
    path = Path(path)
    try:
        manifest = read_manifest(path)
    except DataError as error:
        return [str(error)]
    return [
        problem
        for name, file in manifest.files().items()
        for problem in damage(path / name, file.size, file.chunks, CHUNK)
    ]


def extra_files(path: str | Path) -> list[str]:
    """Return the names in a store's directory that do not belong there; they do no harm."""
    return sorted(set(os.listdir(path)) - set(NAMES))


def _map_tokens(path: Path, dtype: str) -> Tokens:
    little_endian = np.dtype(dtype).newbyteorder("<")
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        empty: Tokens = np.empty(0, little_endian)
        empty.flags.writeable = False
        return empty
    return np.memmap(path, dtype=little_endian, mode="r")


def _check_files(path: Path, manifest: Manifest) -> None:
    for name, file in manifest.files().items():
        for problem in damage(path / name, file.size):
            raise DataError(f"store {path}: {problem}; {REPAIR}")
