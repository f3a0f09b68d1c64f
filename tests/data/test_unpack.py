"""What is whole is read, or refused by its true cause; only damage may be left out."""

import bz2
import gzip
import io
import lzma
import sys
from pathlib import Path

import pytest

from lengthen.data.readers import Bad, Part, read
from lengthen.data.sources import find
from lengthen.util.errors import DataError
from tests.data.files import as_lines, packed, write

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = "one line é\nand another\n"


def texts_of(path: Path) -> list[str]:
    items = list(read(find([str(path)])[0], "text", whole_texts=True))
    assert all(isinstance(item, Part) for item in items), items
    return ["".join(item.text for item in items if isinstance(item, Part))]


def place(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("log", [27, 28, 31])
def test_a_frame_with_a_long_window_is_read(tmp_path: Path, log: int) -> None:
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.window_log: log,
        parameter.enable_long_distance_matching: 1,
        parameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=options)
    data = packer.compress(TEXT.encode()) + packer.flush()
    assert texts_of(place(tmp_path / "a.txt.zst", data)) == [TEXT]


def test_frames_to_be_skipped_are_skipped(tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    data = skipped + packed(b"one ", ".zst") + skipped + packed(b"two", ".zst")
    assert texts_of(place(tmp_path / "a.txt.zst", data)) == ["one two"]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst"])
def test_a_file_without_a_byte_is_an_empty_text(tmp_path: Path, suffix: str) -> None:
    assert texts_of(place(tmp_path / f"a{suffix}", b"")) == [""]


def with_a_dictionary() -> bytes:
    samples = [f"some words {n} and {n * n} more {n % 13}".encode() * 5 for n in range(500)]
    return zstd.compress(samples[3], zstd_dict=zstd.train_dict(samples, 1000))


UTF16, UTF8 = TEXT.encode("utf-16"), TEXT.encode()
OTHERS: dict[str, tuple[str, bytes, str]] = {
    "utf-16": ("a.txt", UTF16, "UTF-16 text by its first bytes, not UTF-8 text; convert it: iconv"),
    "utf-16 lines": ("a.jsonl", as_lines(["a"]).decode().encode("utf-16"), "UTF-16 text"),
    "utf-16 big": ("a.txt", b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16 text"),
    "utf-16 without a mark": ("a.txt", TEXT.encode("utf-16-le"), "UTF-16 text"),
    "utf-16 packed": ("a.txt.gz", packed(UTF16, ".gz"), "UTF-16 text"),
    "utf-32": ("a.txt", TEXT.encode("utf-32"), "UTF-32 text .* iconv -f UTF-32"),
    "gzip as text": ("a.txt", packed(UTF8, ".gz"), "is gzip by its first bytes.*name it .gz"),
    "gzip as lines": ("a.jsonl", packed(UTF8, ".gz"), "is gzip by its first bytes"),
    "gzip as zst": ("a.txt.zst", packed(UTF8, ".gz"), "is gzip by its .*not zstd; name it .gz"),
    "zstd as gz": ("a.txt.gz", packed(UTF8, ".zst"), "is zstd by its .*not gzip; name it .zst"),
    "packed twice": ("a.txt.gz", packed(packed(UTF8, ".gz"), ".gz"), "is gzip .*not UTF-8 text"),
    "text as gz": ("a.txt.gz", UTF8, "is plain text, not gzip; take .gz or .zst off its name"),
    "text as zst": ("a.jsonl.zst", as_lines(["漢字" * 40]), "is plain text, not zstd"),
    "xz": ("a.txt.gz", lzma.compress(UTF8), "is xz by its first bytes, not gzip; unpack it first"),
    "bzip2": ("a.txt", bz2.compress(UTF8), "is bzip2 by its first bytes"),
    "zip": ("a.txt", b"PK\x03\x04\x14\0", "is zip by its first bytes"),
    "a dictionary": ("a.txt.zst", with_a_dictionary(), "packed with a dictionary of its own"),
    "array": (
        "a.jsonl",
        b'[{"text": "a"}, {"text": "b"}]',
        "is JSON, not an object a line; `jq -c",
    ),
    "indented": (
        "a.jsonl.gz",
        packed(b'[\n {"text": "a"}\n]\n', ".gz"),
        "is JSON, not an object a",
    ),
    "parquet": ("a.txt", b"PAR1\x15\x04\x15", "is parquet by its first bytes.*name it .parquet"),
}


@pytest.mark.parametrize(("name", "data", "message"), OTHERS.values(), ids=OTHERS)
def test_f44_what_is_whole_and_no_text_of_ours_is_refused_by_its_cause(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = place(tmp_path / name, data)
    with pytest.raises(DataError, match=rf"source .*{name}: .*{message}") as caught:
        texts_of(path)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["PARENTS", "PK", "BZh", "ARROW1 of 2", "P*M", "\ufeffmark", "a\0b\0", "nul\0\0\0\0\0\0\0\0\0"],
)
def test_text_that_begins_like_a_format_is_text(tmp_path: Path, text: str) -> None:
    for suffix in (".txt", ".txt.gz", ".txt.zst"):
        assert texts_of(write(tmp_path / f"a{suffix}", text)) == [text]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_f44_bytes_behind_packed_text_are_named_as_such(tmp_path: Path, packing: str) -> None:
    path = place(tmp_path / f"a.txt{packing}", packed(UTF8, packing) + b"and more bytes")
    items = list(read(find([str(path)])[0], "text", whole_texts=True))
    assert [item.reason for item in items if isinstance(item, Bad)] == [
        f"{path}: packed text ends, and bytes follow that are not"
    ]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_f44_documents_in_front_of_damage_are_kept(tmp_path: Path, packing: str) -> None:
    data = packed(as_lines(["a", "b"]), packing) + packed(as_lines(["c"]), packing)[:-3]
    path = place(tmp_path / f"a.jsonl{packing}", data)
    items = list(read(find([str(path)])[0], "text", whole_texts=True))
    assert [item.text for item in items if isinstance(item, Part)][:2] == ["a", "b"]
    assert isinstance(items[-1], Bad)


def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(gzip.GzipFile, "read1", full)
    with pytest.raises(DataError, match="needs more memory to unpack than there is"):
        texts_of(write(tmp_path / "a.txt.gz", TEXT))


@pytest.mark.parametrize("values", [{"body": "a"}, {"text": ["a"]}, {"text": None}])
def test_lines_that_all_lack_the_text_are_no_bad_lines(
    tmp_path: Path, values: dict[str, object]
) -> None:
    stream = io.StringIO()
    for _ in range(3):
        stream.write(f"{values}\n".replace("'", '"').replace("None", "null"))
    path = write(tmp_path / "a.jsonl", stream.getvalue())
    with pytest.raises(DataError, match=r"a\.jsonl: no line gives text: (has no )?field 'text'"):
        texts_of(path)
