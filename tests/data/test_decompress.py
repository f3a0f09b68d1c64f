"""A whole file is read, or refused by its true cause; only damage may be left out."""

import bz2
import gzip
import lzma
import sys
from pathlib import Path

import pytest

from lengthen.data import decompress
from lengthen.util.errors import DataError
from tests.data.files import as_lines, packed, read, read_whole, write

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = "one line é\nand another\n"
BOTH = pytest.mark.parametrize("packing", [".gz", ".zst"])


def place(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("log", [27, 31])
def test_a_frame_with_a_long_window_is_read(tmp_path: Path, log: int) -> None:
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.window_log: log,
        parameter.enable_long_distance_matching: 1,
        parameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=options)
    data = packer.compress(TEXT.encode()) + packer.flush()
    assert read_whole(place(tmp_path / "a.txt.zst", data)) == [TEXT]


@BOTH
def test_f44_all_frames_of_a_file_are_read(tmp_path: Path, packing: str) -> None:
    data = packed(b"one ", packing) + packed(b"two", packing)
    assert read_whole(place(tmp_path / f"a.txt{packing}", data)) == ["one two"]


def test_frames_to_be_skipped_are_skipped(tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    data = skipped + packed(b"one ", ".zst") + skipped + packed(b"two", ".zst")
    assert read_whole(place(tmp_path / "a.txt.zst", data)) == ["one two"]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst"])
def test_a_file_without_a_byte_is_an_empty_text(tmp_path: Path, suffix: str) -> None:
    texts, left_out = read(place(tmp_path / f"a{suffix}", b""))
    assert (texts, left_out.empty, left_out.problems) == ([], 1, [])


def with_a_dictionary() -> bytes:
    samples = [f"some words {n} and {n * n} more {n % 13}".encode() * 5 for n in range(500)]
    return zstd.compress(samples[3], zstd_dict=zstd.train_dict(samples, 1000))


UTF16, UTF8 = TEXT.encode("utf-16"), TEXT.encode()
OTHER_FORMATS: dict[str, tuple[str, bytes, str]] = {
    "utf-16": ("a.txt", UTF16, "UTF-16 text by its first bytes.*iconv"),
    "utf-16 lines": ("a.jsonl", as_lines(["a"]).decode().encode("utf-16"), "UTF-16 text"),
    "utf-16 without a mark": ("a.txt", TEXT.encode("utf-16-le"), "UTF-16 text"),
    "utf-16 packed": ("a.txt.gz", packed(UTF16, ".gz"), "UTF-16 text"),
    "utf-32": ("a.txt", TEXT.encode("utf-32"), "UTF-32 text .* iconv -f UTF-32"),
    "gzip as text": ("a.txt", packed(UTF8, ".gz"), "is gzip by its first bytes.*name it .gz"),
    "gzip as zst": ("a.txt.zst", packed(UTF8, ".gz"), "is gzip .*not zstd"),
    "zstd as gz": ("a.txt.gz", packed(UTF8, ".zst"), "is zstd .*not gzip"),
    "packed twice": ("a.txt.gz", packed(packed(UTF8, ".gz"), ".gz"), "is gzip .*not UTF-8 text"),
    "text as gz": ("a.txt.gz", UTF8, "is no gzip"),
    "gzip as parquet": ("a.parquet", packed(UTF8, ".gz"), "is gzip .*not parquet"),
    "xz": ("a.txt.gz", lzma.compress(UTF8), "is xz by its first bytes.*unpack it first"),
    "bzip2": ("a.txt", bz2.compress(UTF8), "is bzip2"),
    "zip": ("a.txt", b"PK\x03\x04\x14\0", "is zip"),
    "parquet": ("a.txt", b"PAR1\x15\x04\x15", "is parquet by its first bytes.*name it .parquet"),
    "a dictionary": ("a.txt.zst", with_a_dictionary(), "packed with a dictionary of its own"),
}


@pytest.mark.parametrize(("name", "data", "message"), OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_f44_a_whole_file_in_another_format_is_refused_by_its_cause(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=rf"source .*{name}: .*{message}") as caught:
        read(place(tmp_path / name, data))
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("text", ["PARENTS", "PK", "BZh", "ARROW1 of 2", "\ufeffmark", "a\0b\0"])
def test_text_that_begins_like_a_format_is_text(tmp_path: Path, text: str) -> None:
    for suffix in (".txt", ".txt.gz", ".txt.zst"):
        assert read_whole(write(tmp_path / f"a{suffix}", text)) == [text]


@BOTH
@pytest.mark.parametrize("tenth", [2, 5, 9])
def test_f44_a_file_that_is_cut_off_is_damaged(tmp_path: Path, packing: str, tenth: int) -> None:
    data = packed("".join(chr(33 + (n * n) % 90) for n in range(5000)).encode(), packing)
    path = place(tmp_path / f"a.txt{packing}", data[: len(data) * tenth // 10])
    texts, left_out = read(path)
    assert texts == []
    assert left_out.problems[0].startswith(f"{path}: damaged or cut off (")


@BOTH
def test_f44_bytes_after_packed_text_are_damage(tmp_path: Path, packing: str) -> None:
    path = place(tmp_path / f"a.txt{packing}", packed(UTF8, packing) + b"and more bytes")
    assert "damaged" in read(path)[1].problems[0]


@BOTH
def test_f44_documents_before_damage_are_kept(tmp_path: Path, packing: str) -> None:
    data = packed(as_lines(["a", "b"]), packing) + packed(as_lines(["c"]), packing)[:-3]
    texts, left_out = read(place(tmp_path / f"a.jsonl{packing}", data))
    assert texts[:2] == ["a", "b"]
    assert left_out.skipped == 1


@BOTH
def test_f44_a_bomb_is_not_unpacked(
    tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompress, "RATIO_FROM", 2**20)
    path = write(tmp_path / f"a.txt{packing}", b"\0" * 2**24)
    assert "expands more than 300 to 1" in read(path)[1].problems[0]


def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(gzip.GzipFile, "read1", full)
    with pytest.raises(DataError, match="needs more memory to unpack than there is"):
        read(write(tmp_path / "a.txt.gz", TEXT))
