"""A packed study: the runs of a comparison in one .tar.xz file, read as the directory they were."""

import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lengthen.util.errors import DataError, LengthenError

SUFFIX = ".tar.xz"
MOST_BYTES = 2**31  # of all files together; a file of a few bytes can unpack to any number
DAMAGE = (tarfile.TarError, lzma.LZMAError, EOFError, FileExistsError, NotADirectoryError)


def is_packed(path: Path) -> bool:
    """Return whether `path` is a packed study and not a directory."""
    return path.name.endswith(SUFFIX) and path.is_file()


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Give the directory that `path` is, or one with a packed study's files until the block ends.

    Its name is the study's, and what is raised within the block names the study, not this
    directory. Raises DataError for a damaged archive, and for one that holds anything but files and
    directories of its own.
    """
    if not is_packed(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lengthen-") as folder:
        root = Path(folder).resolve() / path.name.removesuffix(SUFFIX)
        root.mkdir()
        try:
            _unpack(path, root)
        except DAMAGE as error:
            raise DataError(f"{path}: not a whole {SUFFIX} archive: {error}") from None
        try:
            yield root
        except LengthenError as error:
            error.args = (str(error).replace(str(root), str(path)),)
            raise


def _unpack(path: Path, root: Path) -> None:
    total = 0
    with lzma.open(path) as stream, tarfile.open(fileobj=stream) as archive:
        for member in archive:
            total += member.size
            if not (member.isreg() or member.isdir()):
                raise DataError(f"{path}: holds a link or a device, {member.name!r}")
            if Path(member.name).is_absolute() or ".." in Path(member.name).parts:
                raise DataError(f"{path}: holds a file outside of it, {member.name!r}")
            if total > MOST_BYTES:
                raise DataError(f"{path}: unpacks to more than {MOST_BYTES} bytes")
            if file := archive.extractfile(member):
                _write(file, root / member.name)
        while stream.read(2**20):
            pass  # to the end of the file, where its checksums are


def _write(file: IO[bytes], target: Path) -> None:
    # By hand: `extract` has its safe filter from Python 3.11.4 on only.
    target.parent.mkdir(parents=True, exist_ok=True)
    with file, target.open("wb") as out:
        shutil.copyfileobj(file, out)
