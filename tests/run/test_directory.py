"""A run's directory: its owner, and what is left alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lengthen.run import directory as runlog
from lengthen.run.directory import RunPaths
from lengthen.util.disk import Disk
from lengthen.util.errors import BusyError, SettingError


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


def test_a_directory_that_holds_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(SettingError, match="--out"):
            runlog.check_new(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()


def test_overwriting_deletes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for path in (paths.config, paths.metrics, tmp_path / "notes.md"):
        path.write_text("x")
    paths.checkpoints.mkdir()
    runlog.check_new(tmp_path, overwrite=True)
    runlog.clear(Disk(), paths)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]
