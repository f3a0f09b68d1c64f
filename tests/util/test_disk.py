"""The disk: numbered operations, whole or nothing, errors in our words."""

import errno
import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lengthen.util.disk import Disk
from lengthen.util.errors import StorageError


def test_every_effect_is_numbered_in_order(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    disk = Disk(before=lambda number, name, path: seen.append((number, name)))
    disk.make_directory(tmp_path / "new")
    disk.write_file(tmp_path / "new" / "a", b"abc")
    disk.commit_directory(tmp_path / "new", tmp_path / "final")
    disk.remove(tmp_path / "final")
    names = ["make_directory", "create", "write", "sync", "sync_directory", "rename"]
    assert seen == list(enumerate([*names, "sync_directory", "remove"], start=1))
    assert disk.operations == len(seen)


def test_what_was_written_is_told_for_the_manifest(tmp_path: Path) -> None:
    written = Disk().write_file(tmp_path / "a", [b"one", b"two"])
    assert (tmp_path / "a").read_bytes() == b"onetwo"
    assert (written.size, written.sha256) == (6, hashlib.sha256(b"onetwo").hexdigest())


def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        Disk().write_file(tmp_path / "a", b"yours")
    assert (tmp_path / "a").read_bytes() == b"mine"


@pytest.mark.parametrize("fault", range(1, 6))
def test_a_replaced_file_is_the_old_or_the_new_one(tmp_path: Path, fault: int) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def fail(number: int, name: str, path: Path) -> None:
        if number == fault:
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(StorageError):
        Disk(before=fail).replace_file(target, b"new")
    assert target.read_bytes() == (b"new" if fault == 5 else b"old")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EFBIG])
def test_an_error_of_the_disk_is_one_line_with_the_file(tmp_path: Path, code: int) -> None:
    def fail(number: int, name: str, path: Path) -> None:
        raise OSError(code, "low words")

    with pytest.raises(StorageError) as caught:
        Disk(before=fail).create(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value)
    assert "run the command again" in str(caught.value)


def test_f03_a_real_limit_on_file_sizes_reads_like_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from lengthen.util.disk import Disk\n"
        "from lengthen.util.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: Disk().write_file(Path(sys.argv[1]), b'x' * 5000)\n"
        "except StorageError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "free some space" in done.stdout, done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_file_system_that_syncs_no_directories_is_written_to_all_the_same() -> None:
    # As /proc is, whose answer is the kernel's own; so are some of shared folders and networks.
    descriptor = os.open("/proc", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        os.fsync(descriptor)
    os.close(descriptor)
    Disk().sync_directory(Path("/proc"))
