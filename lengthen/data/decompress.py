"""Open a text file as bytes: decompressed by its suffix, its format checked by its first bytes.

`prepare --on-bad skip` may leave out a file that raises DamagedFileError, never one that raises
UnsupportedFileError.
"""

import gzip
import io
import re
import sys
import zlib
from pathlib import Path
from typing import Any

from lengthen.util.errors import one_line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Prose compresses 3 to 5 to 1, logs perhaps 50 to 1, zeros 1000 (gz) or 32000 (zst) to 1.
RATIO_LIMIT = 300  # decompressed / compressed bytes; above it a file is taken for a bomb
RATIO_FROM = 256 * 2**20  # decompressed bytes from which on the ratio is checked
HEAD_BYTES = 64  # enough to recognise a format
# A zstd frame names its window: `zstd --long=31` writes 2 GiB, more than the library's default.
LOG = zstd.DecompressionParameter.window_log_max
WINDOW: dict[int, int] = {LOG: LOG.bounds()[1]}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
UTF16 = "convert it: iconv -f UTF-16 -t UTF-8"
FORMATS = {
    rb"\x1f\x8b": ("gzip", "name it .gz"),
    rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18": ("zstd", "name it .zst"),
    rb"\xfd7zXZ\0": ("xz", "unpack it first"),
    rb"BZh[1-9]1AY&SY": ("bzip2", "unpack it first"),
    rb"PK\x03\x04": ("zip", "unpack it first"),
    rb"7z\xbc\xaf\x27\x1c": ("7z", "unpack it first"),
    rb"PAR1\x15": ("parquet", "name it .parquet"),
    rb"ARROW1\0\0": ("arrow", "name it .arrow"),
    rb"\xff\xfe\0\0|\0\0\xfe\xff": ("UTF-32 text", UTF16.replace("16", "32")),
    rb"\xff\xfe|\xfe\xff|(?:[^\0]\0){8}|(?:\0[^\0]){8}": ("UTF-16 text", UTF16),
}


class DamagedFileError(Exception):
    """The rest of this file cannot be read: it is damaged, or expands like a bomb."""


class UnsupportedFileError(Exception):
    """This file is whole, and cannot be read as it is; the message ends with what to do."""


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def check_format(head: bytes, expected: str) -> None:
    """Raise UnsupportedFileError where the first bytes of a file are not those of its format."""
    for pattern, (name, what_to_do) in FORMATS.items():
        if re.match(pattern, head, re.DOTALL):
            if name == expected:
                return
            reason = f"is {name} by its first bytes, not {expected}; {what_to_do}"
            raise UnsupportedFileError(f": {reason}")
    if head and expected in COMPRESSIONS.values():
        raise UnsupportedFileError(f": is no {expected} by its first bytes; name it by what it is")


class DecompressedFile(io.RawIOBase):
    """The bytes of a text file, decompressed where its name says so."""

    def __init__(self, path: Path) -> None:
        """Open a file; raises UnsupportedFileError where it is not what its name says."""
        head = read_head(path)
        # A file without a byte is an empty text, compressed or not.
        compression = COMPRESSIONS.get(path.suffix.lower()) if head else None
        if compression:
            check_format(head, compression)
        self._file = path.open("rb")
        self._stream: io.BufferedReader | gzip.GzipFile | zstd.ZstdFile = self._file
        if compression == "gzip":
            self._stream = gzip.GzipFile(fileobj=self._file)
        elif compression == "zstd":
            self._stream = zstd.ZstdFile(self._file, options=WINDOW)
        self._decompressed = 0

    def readable(self) -> bool:
        """Return True, as `io` asks for."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, as `io` asks for; raises DamagedFileError or UnsupportedFileError."""
        try:
            # At most one step of the decompressor: what it gives before damage is not lost with it.
            data = self._stream.read1(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError, MemoryError) as error:
            raise _explain(error) from None
        if not self._decompressed:
            check_format(data[:HEAD_BYTES], "UTF-8 text")
        # Measured by what came out: a file's own statement of its size can be false.
        self._decompressed += len(data)
        if self._decompressed > max(RATIO_FROM, RATIO_LIMIT * self.bytes_read):
            reason = f"expands more than {RATIO_LIMIT} to 1; unpack it first if that is right"
            raise DamagedFileError(f": {reason}")
        buffer[: len(data)] = data
        return len(data)

    @property
    def bytes_read(self) -> int:
        """Bytes of the file on the disk that are read so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file too; its decompressor does not."""
        self._stream.close()
        self._file.close()
        super().close()


def _explain(error: Exception) -> Exception:
    text = str(error)
    if "Dictionary" in text:
        reason = "is packed with a dictionary of its own; unpack it with that first"
        return UnsupportedFileError(f": {reason}")
    if isinstance(error, MemoryError) or "memory" in text.lower():
        return UnsupportedFileError(": needs more memory to unpack than there is")
    return DamagedFileError(f": damaged or cut off ({one_line(error)})")
