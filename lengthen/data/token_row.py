"""One row of tokens that lies in files: read as an array is, however many files there are."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lengthen.util.disk import reason_of
from lengthen.util.errors import DataError
from lengthen.util.manifest import damage, open_regular

REPAIR = "prepare it again, or copy it again"
FIXED = 0x10  # MAP_FIXED, which Python's mmap lacks; the same on Linux and macOS


class TokenFile(NamedTuple):
    """A file of tokens, little-endian."""

    path: Path
    size: int  # bytes
    tokens: int
    offset: int  # bytes before the first token


class TokenRow:
    """The tokens of several files, end to end; it is read as a one-dimensional array is.

    All files share one range of addresses. Each is mapped into its place there when it is first
    read, and closed again: none stays open, and a window costs the same however many there are.
    """

    ndim = 1

    def __init__(self, files: Sequence[TokenFile], dtype: str) -> None:
        """Map none of them yet; `dtype` is "uint16" or "uint32"."""
        self.dtype = np.dtype(dtype).newbyteorder("<")
        # What is empty cannot be mapped.
        self._files = files = [file for file in files if file.tokens]
        pages = [-(-file.size // mmap.PAGESIZE) * mmap.PAGESIZE for file in files]
        self._places = np.array([0, *accumulate(pages)])  # of each file in the range, bytes
        self._starts = np.array([0, *accumulate(file.tokens for file in files)])  # in the row
        offsets = np.array([file.offset for file in files], int)
        self._shifts = (self._places[:-1] + offsets) // self.dtype.itemsize - self._starts[:-1]
        self._is_mapped = np.zeros(len(files), bool)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        size = int(self._places[-1])
        space = mmap.mmap(-1, max(1, size), flags, mmap.PROT_READ)
        self._memory = np.frombuffer(space, self.dtype, size // self.dtype.itemsize)

    def __reduce__(self) -> tuple[Any, ...]:
        # The range of addresses is this process's: a copy maps the files anew.
        return TokenRow, (self._files, self.dtype.str)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return int(self._starts[-1])

    def __getitem__(self, key: Any) -> Any:
        """Return a token, those of a slice, or those at an array of positions from 0 on."""
        if isinstance(key, np.ndarray):
            return self._memory[key + self._shifts[self._mapped(self._numbers(key))]]
        chosen = range(len(self))[key]
        if isinstance(chosen, range) and chosen.step == 1:
            return self._slice(chosen.start, chosen.stop)
        return self[np.array(chosen, int)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all tokens; of one file that is no copy."""
        tokens: NDArray[Any] = np.array(self[:], dtype, copy=copy)
        return tokens

    def tolist(self) -> list[int]:
        """Return all tokens."""
        tokens: list[int] = self[:].tolist()
        return tokens

    def windows(self, starts: NDArray[np.int64], size: int) -> NDArray[Any]:
        """Return the `size` tokens from each of the positions on: (starts, size)."""
        first, last = self._numbers(starts), self._numbers(starts + (size - 1))
        within = first == last
        shifted = starts + self._shifts[self._mapped(first)]
        views = sliding_window_view(self._memory, size)
        found: NDArray[Any] = views[shifted * within]
        if not within.all():
            found[~within] = self[starts[~within, None] + np.arange(size)]
        return found

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        if start >= stop:
            return self._memory[:0]
        first, last = self._numbers(np.array([start, stop - 1]))
        numbers = self._mapped(np.arange(first, last + 1))
        lows, highs = np.maximum(start, self._starts[numbers]), self._starts[numbers + 1]
        shifts, highs = self._shifts[numbers], np.minimum(stop, highs)
        pieces = [
            self._memory[low:high] for low, high in zip(lows + shifts, highs + shifts, strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _numbers(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of the files that positions lie in."""
        return np.searchsorted(self._starts, positions, side="right") - 1

    def _mapped(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map those of the files that are not yet; raises DataError for one that has changed."""
        if not self._is_mapped[numbers].all():
            for number in np.unique(numbers):
                self._map(self._files[number], int(self._places[number]))
                self._is_mapped[number] = True
        return numbers

    def _map(self, file: TokenFile, place: int) -> None:
        problems = damage(file.path, file.size)
        try:
            if not problems:
                with open_regular(file.path) as handle:
                    _map_at(self._memory.ctypes.data + place, file.size, handle.fileno())
        except OSError as error:
            problems = [f"{file.path.name} {reason_of(error)}"]
        if problems:
            raise DataError(f"store {file.path.parent}: {problems[0]}; {REPAIR}")


Tokens = TokenRow | NDArray[Any]  # uint16 or uint32


def windows(tokens: Tokens, starts: NDArray[np.int64], size: int) -> NDArray[Any]:
    """Return the `size` tokens from each of the positions on: (starts, size)."""
    if isinstance(tokens, TokenRow):
        return tokens.windows(starts, size)
    return sliding_window_view(tokens, size)[starts]


def _map_at(address: int, size: int, descriptor: int) -> None:
    """Map a file's bytes, read-only, over the pages from an address on; raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_SHARED | FIXED
    if library.mmap(address, size, mmap.PROT_READ, flags, descriptor, 0) != address:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
