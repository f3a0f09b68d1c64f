"""Files to bytes: unpacked where their names say so, and looked at, so that causes are true.

What is damaged is told apart from what is whole and no text of ours: packed in another way, in
another encoding, encrypted. `--on-bad skip` may leave out the one, never the other.
"""

import codecs
import gzip
import io
import re
import sys
import zlib
from pathlib import Path
from typing import Any

from lengthen.data.store import one_line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 2**20  # bytes read at once
# Prose packs 3 to 5 to 1, logs perhaps 50 to 1, a bomb of zeros 1000 (gz) or 32000 (zst) to 1.
RATIO_LIMIT, RATIO_FROM = 300, 256 * 2**20  # checked from so many bytes on
PEEK = 64  # bytes that tell a format
# A frame names its window; what `--long=31` wrote needs one of 2 GiB, more than the default allows.
LOG = zstd.DecompressionParameter.window_log_max
WINDOW: dict[int, int] = {LOG: LOG.bounds()[1]}
PACKINGS = {".gz": "gzip", ".zst": "zstd"}
ZSTD = rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"  # a frame, or one to be skipped
UTF16 = "convert it: iconv -f UTF-16 -t UTF-8"
FORMATS = {
    rb"\x1f\x8b": ("gzip", "name it .gz"),
    ZSTD: ("zstd", "name it .zst"),
    rb"\xfd7zXZ\0": ("xz", "unpack it first"),
    rb"BZh[1-9]1AY&SY": ("bzip2", "unpack it first"),
    rb"PK\x03\x04": ("zip", "unpack it first"),
    rb"7z\xbc\xaf\x27\x1c": ("7z", "unpack it first"),
    rb"PAR1\x15": ("parquet", "name it .parquet"),
    rb"ARROW1\0\0": ("Arrow", "name it .arrow"),
    rb"\xff\xfe\0\0|\0\0\xfe\xff": ("UTF-32 text", UTF16.replace("16", "32")),
    rb"\xff\xfe|\xfe\xff|(?:[^\0]\0){8}|(?:\0[^\0]){8}": ("UTF-16 text", UTF16),
}


class UnreadableError(Exception):
    """The rest of this file cannot be read: it is damaged."""


class RefusedError(Exception):
    """This file is whole, and cannot be read as it is; the message ends with what to do."""


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(PEEK)


def must_be(expected: str, head: bytes) -> None:
    """Raise RefusedError where the first bytes of a file are those of another known format.

    Raises UnreadableError where they are none of what packed text begins with.
    """
    for shape, (name, what_to_do) in FORMATS.items():
        if re.match(shape, head, re.DOTALL):
            if name != expected:
                raise RefusedError(f": is {name} by its first bytes, not {expected}; {what_to_do}")
            return
    packed = expected in PACKINGS.values()
    if head and expected != "UTF-8 text" and _is_text(head):
        what_to_do = "take .gz or .zst off its name" if packed else "name it by what it holds"
        raise RefusedError(f": is plain text, not {expected}; {what_to_do}")
    if packed:
        raise UnreadableError(f": damaged, or no {expected}: its first bytes are others")


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last one may be cut
    except UnicodeDecodeError:
        return False
    return all(one.isprintable() or one in "\t\r\n" for one in text)


class Unpacked(io.RawIOBase):
    """The bytes of a file, decompressed where its name says so."""

    def __init__(self, path: Path) -> None:
        """Open a file; raises RefusedError where it is none of what its name says."""
        head = head_of(path)
        # A file without a byte is an empty text, packed or not.
        packing = PACKINGS.get(path.suffix.lower()) if head else None
        if packing:
            must_be(packing, head)
        self._file = path.open("rb")
        self._stream: io.BufferedReader | gzip.GzipFile | zstd.ZstdFile = self._file
        if packing == "gzip":
            self._stream = gzip.GzipFile(fileobj=self._file)
        elif packing == "zstd":
            self._stream = zstd.ZstdFile(self._file, options=WINDOW)
        self._given = 0

    def readable(self) -> bool:
        """Say that this can be read, as `io` asks for."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, as `io` asks for; raises UnreadableError or RefusedError."""
        try:
            # At most one step of the decompressor: what it gives before damage is not lost with it.
            data = self._stream.read1(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError) as error:
            raise _cause(error, self._given) from None
        except MemoryError:
            raise RefusedError(": needs more memory to unpack than there is") from None
        if not self._given:
            must_be("UTF-8 text", data[:PEEK])
        # Measured by what came out: a file's own word for its size can be a lie.
        self._given += len(data)
        if self._given > max(RATIO_FROM, RATIO_LIMIT * self.taken):
            reason = f"expands more than {RATIO_LIMIT} to 1; unpack it first if that is right"
            raise UnreadableError(f": {reason}")
        buffer[: len(data)] = data
        return len(data)

    @property
    def taken(self) -> int:
        """Bytes of the file that are read so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file too; its decompressor does not."""
        self._stream.close()
        self._file.close()
        super().close()


def _cause(error: Exception, given: int) -> Exception:
    """Tell from a library's message whether the file is damaged."""
    text = str(error)
    if "Dictionary" in text:
        return RefusedError(": is packed with a dictionary of its own; unpack it with that first")
    if "memory" in text.lower():
        return RefusedError(f": needs more memory to unpack than there is ({one_line(error)})")
    if given and ("Not a gzipped file" in text or "Unknown frame" in text):
        return UnreadableError(": packed text ends, and bytes follow that are not")
    return UnreadableError(f": damaged or cut off ({one_line(error)})")
