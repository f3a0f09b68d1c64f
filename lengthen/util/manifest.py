"""Files against what a manifest says of them: regular files, their sizes, every byte's SHA-256."""

import hashlib
import os
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from lengthen.util.disk import reason_of, with_retries
from lengthen.util.errors import shown

BLOCK = 2**20  # bytes read at a time


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read; raises OSError for anything but a regular one, a link too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("is not a regular file")
    return os.fdopen(descriptor, "rb")


def damage(
    path: Path, size: object, hashes: Sequence[object] = (), chunk: int | None = None
) -> list[str]:
    """Return a line for each thing that is wrong with a file; `size` is what it should have.

    `hashes` are the SHA-256 of every `chunk` bytes, or of all; none: no byte is read.
    """
    compare = partial(_differences, path, size, hashes, chunk)
    try:
        return with_retries(compare) if hashes else compare()
    except OSError as error:
        return [f"{path.name} {reason_of(error)}"]


def _differences(
    path: Path, size: object, hashes: Sequence[object], chunk: int | None
) -> list[str]:
    with open_regular(path) as file:
        actual = os.fstat(file.fileno()).st_size
        if actual != size:
            return [f"{path.name} has {actual} bytes, should have {shown(size)}"]
        wrong = []
        for number, expected in enumerate(hashes):
            start = number * (chunk or actual)
            end = min(start + chunk, actual) if chunk else actual
            digest = hashlib.sha256()
            for place in range(start, end, BLOCK):
                digest.update(file.read(min(BLOCK, end - place)))
            if digest.hexdigest() != expected:
                where = f" in bytes {start} to {end - 1}" if chunk else ""
                wrong.append(f"{path.name} sha256 differs{where}")
        return wrong
