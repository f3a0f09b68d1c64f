"""What a token store's manifest.json says: format 2, a list of shards for each part.

    {"format": 2, "id": ..., "dtype": "uint16", "vocabulary": 257, "separator": 256,
     "train": [{"file": "train.bin", "tokens": ..., "size": ..., "sha256": ..., "chunks": [...]}],
     "valid": [...], "tokenizer": {...}, "made": {...}}

A shard is a file in the store's folder, or, by an absolute path, one that is used where it lies.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from lengthen.data.tokenizer_files import first_problem
from lengthen.util.disk import read_limited
from lengthen.util.errors import DataError
from lengthen.util.tables import counted

FORMAT = 2
CHUNK = 64 * 2**20  # bytes; damage is located to one of these
MANIFEST_LIMIT = 32 * 2**20  # bytes; 70 for every CHUNK of tokens
MANIFEST = "manifest.json"
DOCUMENTS = "documents.bin"  # of a part of a corpus: the hashes of its documents
PARTS = ("train", "valid")
CONTENT = ("size", "sha256", "chunks", "tokens", "documents", "text_bytes")  # of a shard

Count = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Of names below the store's folder at most one is a folder, and none is hidden or leads out of it.
ShardFile = Annotated[
    str, Field(pattern=r"^(/[^\x00]+|([A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*)$")
]


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


class Shard(FileEntry):
    """A file of tokens."""

    file: ShardFile
    tokens: Count  # separators included
    documents: Count
    text_bytes: Count | None  # of UTF-8, separators not included; None where nobody counted them
    offset: Count = 0  # bytes before the first token
    head: Sha256 | None = None  # of its first bytes, where the file is used in place


class Part(RootModel[tuple[Shard, ...]]):
    """The training or the validation part: its shards, end to end."""

    model_config = ConfigDict(frozen=True, strict=True)

    @property
    def tokens(self) -> int:
        """Tokens of all shards, separators included."""
        return sum(shard.tokens for shard in self.root)

    @property
    def documents(self) -> int:
        """Documents of all shards."""
        return sum(shard.documents for shard in self.root)

    @property
    def text_bytes(self) -> int | None:
        """Bytes of UTF-8 of all shards; None where they are not known."""
        sizes = [shard.text_bytes for shard in self.root if shard.tokens]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def sha256(self) -> str:
        """The hash of the one shard, or of the hashes of several."""
        hashes = [shard.sha256 for shard in self.root]
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        )


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

    format: Literal[2]  # first, so that another version is refused for this reason
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    dtype: Literal["uint16", "uint32"]
    vocabulary: Annotated[int, Field(ge=1, le=2**32)]
    separator: Count  # the token after every document
    train: Part
    valid: Part
    tokenizer: FileEntry
    made: Provenance

    @model_validator(mode="after")
    def _fits_together(self) -> "Manifest":
        width = np.dtype(self.dtype).itemsize
        for shard in (*self.train.root, *self.valid.root):
            if shard.size != shard.offset + shard.tokens * width or shard.offset % width:
                raise ValueError("a number of tokens does not fit its file's size")
        if self.separator >= self.vocabulary:
            raise ValueError("the separator is not in the vocabulary")
        if self.id != content_id(self.model_dump(mode="json")):
            raise ValueError("the id does not fit the content")
        return self

    def validation(self) -> dict[str, str | int]:
        """Return what environment.json says of the part that validation losses are of."""
        valid = self.valid
        size = {} if valid.text_bytes is None else {"valid_bytes": valid.text_bytes}
        return {"valid": valid.sha256, "valid_tokens": valid.tokens, **size}


def content_id(manifest: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits of all but the id itself, the places and the making."""
    content = {name: manifest[name] for name in manifest if name not in ("id", "made")}
    for part in PARTS:
        content[part] = [{name: shard[name] for name in CONTENT} for shard in manifest[part]]
    if all(len(content[part]) == 1 for part in PARTS):
        # As in format 1, which had one file a part: runs know their store by that id.
        content |= {"format": 1} | {part: content[part][0] for part in PARTS}
    # One spelling for one content: sorted names, no spaces.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def manifest_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of the manifest.json that says `content`, with its format and id."""
    content = {"format": FORMAT, **content}
    return json.dumps({"id": content_id(content), **content}, indent=1).encode() + b"\n"


def read_manifest(path: Path) -> Manifest:
    """Read and check a store's manifest; raises DataError."""
    if not os.path.lexists(path / MANIFEST):
        foreign = [one for one in (path, *sorted(path.glob("*.bin"))) if one.suffix == ".bin"]
        why = f", {foreign[0].name} lacks a manifest" if foreign else ""
        raise DataError(f"store {path}: no token store is there{why}; `lengthen prepare` makes one")
    data = read_limited(path / MANIFEST, MANIFEST_LIMIT)
    try:
        return Manifest.model_validate_json(_as_format_2(data))
    except ValidationError as error:
        reason = first_problem(error)
        if reason.startswith("format: "):
            reason = f"{reason}, the newest format that this version reads"
        raise DataError(f"file {path / MANIFEST}: cannot be used ({reason})") from None


def _as_format_2(data: bytes) -> bytes:
    """Return a manifest of format 1, of one file a part, as format 2 has it; any other as it is."""
    with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
        if b'"format": 1,' in data and (content := json.loads(data))["format"] == 1:
            lists = {part: [{"file": f"{part}.bin", **content[part]}] for part in PARTS}
            return json.dumps(content | lists | {"format": FORMAT}).encode()
    return data
