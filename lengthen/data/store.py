"""The token store: a directory with the tokens of a corpus, and a manifest over every byte of it.

    DIR/manifest.json     what is in here, how it was made, SHA-256 of every 64 MiB of every file
    DIR/train.bin         token ids, little-endian uint16 or uint32, nothing else
    DIR/valid.bin         the same; may be empty
    DIR/tokenizer.json    what turns ids back into text, so that a store is enough to sample from

A part may also be several files, and files elsewhere by their absolute path, as the manifest says.
No link is followed: what is opened is what the manifest names.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from lengthen.data.store_manifest import (
    CHUNK,
    DOCUMENTS,
    MANIFEST,
    FileEntry,
    Manifest,
    Shard,
    read_manifest,
)
from lengthen.data.token_row import REPAIR, TokenFile, TokenRow, Tokens
from lengthen.data.tokenizer_files import FILE_LIMIT, TOKENIZER, TextTokenizer, parse_tokenizer
from lengthen.util.disk import as_path, read_limited
from lengthen.util.errors import DataError
from lengthen.util.manifest import damage

HEAD = 4096  # bytes of a file in place that are compared whenever the store is opened


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

        Raises DataError where a file is missing, of another size, or no regular file, where a file
        in place begins otherwise than it did, and where the manifest does not hold together. Bytes
        are compared by `verify` alone.
        """
        path = as_path("path", path)
        manifest = read_manifest(path)
        _check_files(path, manifest)
        parts, path = (manifest.train, manifest.valid), path.absolute()  # files are mapped later
        rows = (
            TokenRow([token_file(path, one) for one in part.root], manifest.dtype) for part in parts
        )
        return cls(path, manifest, *rows)

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


def token_file(folder: Path, shard: Shard) -> TokenFile:
    """Return a shard of the store in a folder as a file to read tokens from."""
    return TokenFile(folder / shard.file, shard.size, shard.tokens, shard.offset)


def verify(path: str | Path) -> list[str]:
    """Compare every byte of a store with its manifest, several files at a time.

    Returns one line for each damage, with file and byte range (64 MiB at the finest); an empty
    list where all is well. The memory used is constant.
    """
    path = Path(path)
    try:
        files = _files(read_manifest(path))
    except DataError as error:
        return [str(error)]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda item: _damage(path, *item, bytewise=True), files.items())
        return [problem for problems in found for problem in problems]


def extra_files(path: str | Path) -> list[str]:
    """Return the names in a store's directory that do not belong there; they do no harm."""
    files = _files(read_manifest(Path(path)))
    known = {Path(name).parts[0] for name in (MANIFEST, DOCUMENTS, *files)}
    return sorted(name for name in set(os.listdir(path)) - known if not name.startswith("part-"))


def _files(manifest: Manifest) -> dict[str, FileEntry]:
    """Return the files that the manifest covers, by name."""
    shards = (*manifest.train.root, *manifest.valid.root)
    return {**{shard.file: shard for shard in shards}, TOKENIZER: manifest.tokenizer}


def _check_files(path: Path, manifest: Manifest) -> None:
    for name, file in _files(manifest).items():
        for problem in _damage(path, name, file):
            raise DataError(f"store {path}: {problem}; {REPAIR}")


def _damage(path: Path, name: str, file: FileEntry, *, bytewise: bool = False) -> list[str]:
    """Return what is wrong with a file: its size and its head, or every byte."""
    head = file.head if isinstance(file, Shard) else None
    if problems := damage(path / name, file.size, file.chunks if bytewise else (), CHUNK):
        return [f"{Path(name).parent / problem}" for problem in problems]
    if head and head_of(path / name) != head:
        return [f"{name} begins otherwise than it did"]
    return []


def head_of(path: Path) -> str:
    """Return the SHA-256 of a file's first bytes."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(HEAD)).hexdigest()
