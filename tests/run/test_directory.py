"""A run's directory: its owner, and what is left alone."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import ANY

import pytest

from lengthen.run import directory as runlog
from lengthen.run.directory import RunPaths
from lengthen.util.disk import Disk
from lengthen.util.errors import BusyError, SettingError, StorageError


def test_f18_one_directory_has_one_owner_and_is_free_when_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lengthen.run.directory import owned\n"
        "with owned(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        said = f"in use by pid {other.pid} on .* since"
        with pytest.raises(BusyError, match=said), runlog.owned(tmp_path):
            pass
        # Whatever somebody has written into the file.
        (tmp_path / ".lock").write_text("[" * 10**5)
        with pytest.raises(BusyError, match="in use by another process"), runlog.owned(tmp_path):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with runlog.owned(tmp_path):
            pass


def test_f15_a_disk_without_room_for_the_owner_is_named(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        rule = f"storage {tmp_path}/.lock: file too large; free some space"
        with pytest.raises(StorageError, match=rule), runlog.owned(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with runlog.owned(tmp_path):
        pass


OWNER = """
import errno, fcntl, os, sys, time
from pathlib import Path
from lengthen.run import directory

def refuse(*_):
    raise OSError(int(sys.argv[2]), os.strerror(int(sys.argv[2])))

fcntl.flock, directory.LEASE_SECONDS = refuse, 2.0
with directory.owned(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner(root: Path, number: int, *before: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that owns a directory on a disk whose flock fails with this error."""
    command = [*before, sys.executable, "-c", OWNER, str(root), str(number)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


def came(root: Path, number: int) -> tuple[str, str]:
    """What another one prints and says there."""
    with owner(root, number) as process:
        return process.communicate("", timeout=30)


def begun(process: "subprocess.Popen[str]") -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "mine\n"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_f18_without_flock_a_directory_has_one_owner_and_is_free_when_it_is_killed(
    tmp_path: Path, number: int
) -> None:
    with owner(tmp_path, number) as first:
        assert begun(first)
        _, errors = came(tmp_path, number)
        assert "lies on a disk without flock; waiting up to 2 s" in errors
        assert f"BusyError: {tmp_path} is in use by pid {first.pid} on" in errors
    assert came(tmp_path, number) == ("mine\n", ANY)
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_f18_without_flock_a_killed_owner_on_another_host_is_waited_for(tmp_path: Path) -> None:
    elsewhere = ("unshare", "-r", "-u", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh")
    with owner(tmp_path, errno.ENOSYS, *elsewhere) as first:
        if not begun(first):
            pytest.skip("there are no namespaces on this machine")
    before = time.monotonic()
    assert came(tmp_path, errno.ENOSYS)[0] == "mine\n"
    assert time.monotonic() - before > 2


def test_f18_without_flock_an_owner_that_was_taken_for_dead_ends_and_writes_nothing(
    tmp_path: Path,
) -> None:
    with owner(tmp_path, errno.ENOSYS) as first:
        assert begun(first)
        (tmp_path / ".lease").unlink()
        assert first.stderr is not None
        assert "was taken by another process" in first.stderr.readline()
        assert first.wait(timeout=30) == 5


def test_a_directory_that_holds_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(SettingError, match="--out"):
            runlog.check_new(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    "names", [["config.toml", "checkpoints"], ["checkpoints"], ["tokenizer.json"], ["config.toml"]]
)
def test_what_others_call_as_we_do_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("[tool]\nname = 'mine'\n")
    for overwrite in (False, True):
        with pytest.raises(SettingError, match="this one holds other things and is no run"):
            runlog.check_new(tmp_path, overwrite=overwrite)


def test_what_a_run_left_that_had_not_begun_is_replaced_without_being_asked(tmp_path: Path) -> None:
    for name in (".lock", "environment.json", "tokenizer.json", "checkpoints"):
        (tmp_path / name).write_text("x")
        runlog.check_new(tmp_path, overwrite=False)


def test_overwriting_deletes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for path in (paths.config, paths.metrics, tmp_path / "notes.md"):
        path.write_text("[pacing]")
    paths.checkpoints.mkdir()
    runlog.check_new(tmp_path, overwrite=True)
    runlog.clear(Disk(), paths)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]
