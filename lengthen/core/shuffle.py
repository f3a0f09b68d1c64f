"""The order in which an epoch visits its sequences: a keyed permutation, computed on demand.

No array of N numbers exists: a Feistel network over [0, a * b), which is hardly larger than
[0, N), maps each position by itself (Black and Rogaway, "Ciphers with arbitrary finite domains",
2002, section 5), and what falls outside is mapped again until it falls inside.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 12  # additions into one half or the other; with 10, sizes of 5 and 6 show a bias

Words = NDArray[np.uint64]


def sub_seed(seed: int, *path: int | str) -> int:
    """Return a seed of 63 bits for one purpose, such as `sub_seed(seed, "order", epoch)`.

    Different paths give independent seeds, so that one more use of chance changes no other.
    """
    name = repr((int(seed), *path)).encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True)
class KeyedPermutation:
    """A permutation of [0, size), one for each key; all keys' are equally likely, nearly."""

    size: int
    key: int

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which number stands at each of the `positions`: int64, 1-D, each in [0, size)."""
        numbers = self._mixed(positions.astype(np.uint64))
        # A permutation of [0, a * b) that is followed from inside [0, size) comes back inside.
        while (outside := numbers >= self.size).any():
            numbers[outside] = self._mixed(numbers[outside])
        return numbers.astype(np.int64)

    def _mixed(self, numbers: Words) -> Words:
        a = math.isqrt(self.size - 1) + 1
        b = -(-self.size // a)  # a * b exceeds the size by less than a
        left, right = np.divmod(numbers, np.uint64(b))
        for left_key, right_key in _round_keys(self.key):
            left = (left + _hashed(right + left_key)) % np.uint64(a)
            right = (right + _hashed(left + right_key)) % np.uint64(b)
        mixed: Words = left * np.uint64(b) + right
        return mixed


@lru_cache(maxsize=16)
def _round_keys(key: int) -> list[tuple[Any, Any]]:
    numbers = [np.uint64(sub_seed(key, number)) for number in range(ROUNDS)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _hashed(words: Words) -> Words:
    """Scatter the bits of each word over 62 bits, as one round of MurmurHash3's finaliser does."""
    words = words * np.uint64(0xFF51AFD7ED558CCD)
    words = (words ^ (words >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return words >> np.uint64(2)  # a sum with a half cannot overflow
