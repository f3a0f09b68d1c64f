"""Which documents are there twice, and which validate though they train: by a hash of each."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lengthen.data.encode import Piece
from lengthen.util.errors import DataError

MOST = 2**23  # documents of a split that are held, at 16 bytes each
ALLOWED = 0.1  # of the characters that validate may stand in the training part


@dataclass
class _Split:
    """Hash and size of each document; of very many, of those alone whose hash `every` divides."""

    every: int = 1
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    sizes: "array[int]" = field(default_factory=lambda: array("Q"))  # characters

    def add(self, value: int, size: int) -> None:
        if value % self.every == 0:
            self.hashes.append(value)
            self.sizes.append(size)
        if len(self.hashes) > MOST:
            self.thin(2 * self.every)

    def thin(self, every: int) -> None:
        # Chosen by the hash, so that documents that are alike stay or go together.
        kept = np.frombuffer(self.hashes, np.uint64) % every == 0
        self.hashes = array("Q", np.frombuffer(self.hashes, np.uint64)[kept].tobytes())
        self.sizes = array("Q", np.frombuffer(self.sizes, np.uint64)[kept].tobytes())
        self.every = every


class Repeats:
    """Remembers the documents that pass, and says afterwards which were the same."""

    def __init__(self) -> None:
        self._splits = {"train": _Split(), "valid": _Split()}

    def passing(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Hand on every piece."""
        digest, size = hashlib.blake2b(digest_size=8), 0
        for piece in pieces:
            digest.update(piece.text.encode())
            size += len(piece.text)
            if piece.ends:
                self._splits[piece.split].add(int.from_bytes(digest.digest()), size)
                digest, size = hashlib.blake2b(digest_size=8), 0
            yield piece

    def counted(self) -> dict[str, int]:
        """Return how many documents are `repeated`, and how many that validate are `leaked`.

        Estimates, where there are over MOST. Raises DataError where more than ALLOWED of the
        validation part is leaked.
        """
        every = max(split.every for split in self._splits.values())
        for split in self._splits.values():
            split.thin(every)
        train, valid = (np.frombuffer(split.hashes, np.uint64) for split in self._splits.values())
        sizes = np.frombuffer(self._splits["valid"].sizes, np.uint64)
        inside = np.isin(valid, train)
        leaked = every * int(inside.sum())
        if sizes[inside].sum() > ALLOWED * sizes.sum():
            raise DataError(
                f"corpus: {leaked} of {every * len(valid)} validation documents also stand in the "
                "training part, word for word; is a text there twice, packed and unpacked perhaps? "
                "Name each once, or take repeated documents out, or give --valid 0 and no "
                "--valid-files"
            )
        different = len(np.unique(np.concatenate([train, valid])))
        repeated = every * (len(train) + len(valid) - different)
        return {"repeated": repeated, "leaked": leaked}
