"""A file is what its manifest says, or each difference is one line with its place."""

import hashlib
import os
from pathlib import Path

import pytest

from lengthen.util.manifest import damage

DATA = b"0123456789"
CHUNKS = [hashlib.sha256(part).hexdigest() for part in (b"0123", b"4567", b"89")]
WHOLE = [hashlib.sha256(DATA).hexdigest()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    return path


def test_a_good_file_has_no_damage(file: Path) -> None:
    assert damage(file, 10, WHOLE) == damage(file, 10, CHUNKS, 4) == []


def test_damage_is_located_to_the_chunks_that_differ(file: Path) -> None:
    file.write_bytes(b"0123x5678x")
    assert damage(file, 10) == []  # the size alone
    assert damage(file, 10, WHOLE) == ["a.bin sha256 differs"]
    assert damage(file, 10, CHUNKS, 4) == [
        "a.bin sha256 differs in bytes 4 to 7",
        "a.bin sha256 differs in bytes 8 to 9",
    ]


def test_another_size_and_what_is_no_regular_file_are_named(file: Path) -> None:
    assert damage(file, 11) == ["a.bin has 10 bytes, should have 11"]
    link = file.with_name("link")
    link.symlink_to(file)
    os.mkfifo(file.with_name("pipe"))
    assert damage(link, 10) != []
    assert damage(file.with_name("pipe"), 0) == ["pipe is not a regular file"]
    assert damage(file.with_name("none"), 0) == ["none no such file or directory"]
