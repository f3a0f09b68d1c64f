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
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tokenizers import Tokenizer
from tokenizers import __version__ as tokenizers_version

from lengthen.util.errors import NAME, DataError, cut

FORMAT = 1
CHUNK = 64 * 2**20  # bytes; damage is located to one of these
MANIFEST_LIMIT = 16 * 2**20  # bytes
TOKENIZER_LIMIT = 64 * 2**20  # bytes
LFS_POINTER = b"version https://git-lfs"
MOST_IDS = 2**24  # tokens of a vocabulary
BLOCK = 2**20  # bytes read at once while hashing
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
NAMES = (MANIFEST, "train.bin", "valid.bin", TOKENIZER)

Tokens = NDArray[np.uint16] | NDArray[np.uint32]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """What is read from a manifest: nothing converted, nothing unknown let through."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class File(Frozen):
    """One file as it was written."""

    size: Count  # bytes
    sha256: Sha256
    chunks: tuple[Sha256, ...]  # of every CHUNK bytes

    @model_validator(mode="after")
    def _has_every_chunk(self) -> "File":
        if len(self.chunks) != -(-self.size // CHUNK):
            raise ValueError("the number of chunks does not fit the size")
        return self


class Split(File):
    """The training or the validation part."""

    tokens: Count  # separators included
    documents: Count
    text_bytes: Count  # of UTF-8, separators not included


class Made(Frozen):
    """How a store was made; says nothing about its content, so it is not part of the id."""

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
    # Not counted in stores of before: 0 there.
    held_out: Count = 0  # files of a split that is not trained on
    repeated: Count = 0  # documents that stand in the store more than once, the first not counted
    leaked: Count = 0  # validation documents that also stand in the training part
    compared: Count = 0  # characters whose tokens were decoded again
    lost: Count = 0  # of them, that did not come back
    unknown: Count = 0  # tokens
    spelled: Count = 0  # spellings of special tokens in the text; they stayed ordinary text


class Manifest(Frozen):
    """Everything about a store but its tokens."""

    # First, so that it is the first complaint about a file of another version.

    format: Literal[1]
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    dtype: Literal["uint16", "uint32"]
    vocabulary: Annotated[int, Field(ge=1, le=2**32)]
    separator: Count  # the token behind every document
    train: Split
    valid: Split
    tokenizer: File
    made: Made

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

    def files(self) -> dict[str, File]:
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
    manifest: Manifest
    train: Tokens  # (tokens,)
    valid: Tokens  # (tokens,), maybe none

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Open the store in a directory; the cost does not depend on its size.

        Raises DataError where a file is missing, of another size, or no regular file, and where
        the manifest does not hold together. Bytes are compared by `verify` alone.
        """
        path = Path(path)
        manifest = read_manifest(path)
        _must_be_whole(path, manifest)
        maps = [_mapped(path / f"{name}.bin", manifest.dtype) for name in ("train", "valid")]
        return cls(path, manifest, *maps)

    def must_be_whole(self) -> None:
        """Raise DataError where a file has changed its size since, as `open` would."""
        _must_be_whole(self.path, self.manifest)

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
        """The token behind every document."""
        return self.manifest.separator

    def tokenizer(self) -> Tokenizer:
        """Load the store's tokenizer; raises DataError where it is not the one written here."""
        path = self.path / TOKENIZER
        found = hashlib.sha256(read_limited(path, TOKENIZER_LIMIT)).hexdigest()
        if found != (expected := self.manifest.tokenizer.sha256):
            raise DataError(
                f"store {self.path}: {TOKENIZER} has sha256 {found[:16]}, the manifest says "
                f"{expected[:16]}; prepare it again, or copy it again"
            )
        return load_tokenizer(path)

    def separator_text(self) -> str:
        """Return how the separator is spelled; raises DataError as `tokenizer` does."""
        name = self.tokenizer().id_to_token(self.separator)
        if name is None:
            rule = f"its tokenizer has no token {self.separator}, the separator"
            raise DataError(f"store {self.path}: {rule}; prepare it again")
        return name

    def tokenizer_files(self) -> dict[str, bytes]:
        """Return by name the files of a folder with the store's tokenizer and separator."""
        return tokenizer_files((self.path / TOKENIZER).read_bytes(), self.separator_text())


def tokenizer_files(tokenizer: bytes, separator: str) -> dict[str, bytes]:
    """Return by name the files of a folder with a tokenizer and its separator, as it is spelled."""
    named = json.dumps({"eos_token": separator}).encode()
    return {TOKENIZER: tokenizer, TOKENIZER_CONFIG: named}


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json for encoding documents whole and as they are.

    Raises DataError where it is no regular file of at most 64 MiB, or no tokenizer.
    """
    return parse_tokenizer(read_limited(path, TOKENIZER_LIMIT), path)


def parse_tokenizer(data: bytes, path: Path) -> Tokenizer:
    """Return the tokenizer in the bytes of a tokenizer.json; raises DataError, which names `path`.

    What a file may ask for beside the ids of a text is off: cutting, padding, tokens around it.
    """
    try:
        tokenizer: Tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(f"tokenizer {path}: {_no_tokenizer(data, error)}") from None
    must_be_bounded(path, tokenizer.get_vocab(with_added_tokens=True).values())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = None
    # Not kept in the file: without it a text that spells a separator would forge one.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _no_tokenizer(data: bytes, error: Exception) -> str:
    if pointer := lfs_pointer(data):
        return pointer
    if "did not match any variant" in str(error) and b'"model"' in data:
        version = f"tokenizers {tokenizers_version}"
        return f"{version} cannot read it ({one_line(error)}); a newer one may: upgrade tokenizers"
    return f"not a {TOKENIZER} ({one_line(error)})"


def lfs_pointer(start: bytes) -> str | None:
    """Return what is wrong where a file begins as Git LFS's stand-in for one; else None."""
    if start.startswith(LFS_POINTER):
        return "is a Git LFS pointer and not the file itself; `git lfs pull` fetches it"
    return None


def must_be_bounded(path: Path, ids: Iterable[int]) -> None:
    """Raise DataError for an id that nothing is made for: the library takes memory up to it."""
    largest = max(ids, default=0)
    if largest >= MOST_IDS:
        raise DataError(
            f"tokenizer {path}: has a token with id {largest}, the most is {MOST_IDS - 1}"
        )


def read_manifest(path: Path) -> Manifest:
    """Read and check a store's manifest; raises DataError."""
    if not os.path.lexists(path / MANIFEST):
        raise DataError(f"store {path}: no token store is there; `lengthen prepare` makes one")
    data = read_limited(path / MANIFEST, MANIFEST_LIMIT)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = cut(".".join(map(str, first["loc"])) or "as a whole", NAME)
        reason = f"{place}: {first['msg']}"
        if place == "format":
            reason = f"format {first['input']!r:.20} is not {FORMAT}, the one this version reads"
        raise DataError(f"file {path / MANIFEST}: cannot be used ({reason})") from None


def read_limited(path: Path, limit: int) -> bytes:
    """Read a regular file, no link, of at most `limit` bytes; raises DataError."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"file {path}: must be a regular file, no link")
        if status.st_size > limit:
            raise DataError(f"file {path}: must be at most {limit} bytes, has {status.st_size}")
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise DataError(f"file {path}: cannot be read ({reason})") from None


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
        for problem in _wrong_inside(path / name, file)
    ]


def strangers(path: str | Path) -> list[str]:
    """Return the names in a store's directory that do not belong there; they do no harm."""
    return sorted(set(os.listdir(path)) - set(NAMES))


def one_line(error: object) -> str:
    """Return the first line of a foreign message, cut to a readable length."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _mapped(path: Path, dtype: str) -> Tokens:
    little_endian = np.dtype(dtype).newbyteorder("<")
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        empty: Tokens = np.empty(0, little_endian)
        empty.flags.writeable = False
        return empty
    return np.memmap(path, dtype=little_endian, mode="r")


def _must_be_whole(path: Path, manifest: Manifest) -> None:
    for name, file in manifest.files().items():
        if problem := _wrong_outside(path / name, file):
            raise DataError(f"store {path}: {problem}; prepare it again, or copy it again")


def _wrong_outside(path: Path, file: File) -> str | None:
    try:
        status = path.lstat()
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return f"{path.name} is not a regular file"
    if status.st_size != file.size:
        return f"{path.name} has {status.st_size} bytes, the manifest says {file.size}"
    return None


def _wrong_inside(path: Path, file: File) -> Iterator[str]:
    if problem := _wrong_outside(path, file):
        yield problem
        return
    try:
        for number, (found, expected) in enumerate(zip(_chunks(path), file.chunks, strict=True)):
            if found != expected:
                start, end = number * CHUNK, min((number + 1) * CHUNK, file.size)
                yield f"{path.name} is damaged between bytes {start} and {end - 1}"
    except (OSError, ValueError) as error:  # unreadable, or cut while we read
        yield f"{path.name} cannot be read to its end ({one_line(error)})"


def _chunks(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest = hashlib.sha256(block)
            for _ in range(CHUNK // BLOCK - 1):
                digest.update(file.read(BLOCK))
            yield digest.hexdigest()
