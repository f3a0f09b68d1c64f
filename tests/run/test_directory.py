"""A run's directory: its owner, its metrics, what is set aside and what is left alone."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from lengthen.run import directory as runlog
from lengthen.run.directory import MetricsLog, RunPaths
from lengthen.util.disk import Disk
from lengthen.util.errors import BusyError, CheckpointError, SettingError, StorageError


def write(path: Path, *records: dict[str, object]) -> int:
    """Append records; return the size that the log believes its file has."""
    with closing(MetricsLog(Disk(), path)) as log:
        for record in records:
            log.write(record)
        return log.size


def step(number: int, **more: object) -> dict[str, object]:
    return {"kind": "step", "step": number, **more}


def test_a_line_is_one_object_and_its_size_is_known(tmp_path: Path) -> None:
    size = write(tmp_path / "m", step(1, loss=0.1), step(2, loss=None))
    assert size == (tmp_path / "m").stat().st_size
    lines = (tmp_path / "m").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [step(1, loss=0.1), step(2, loss=None)]


def test_not_a_number_never_enters_the_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "m", step(1, loss=float("nan")))
    assert (tmp_path / "m").read_bytes() == b""


def test_f05_a_full_disk_leaves_the_log_at_its_last_whole_line(tmp_path: Path) -> None:
    def fail(number: int, name: str, path: Path) -> None:
        if name == "write" and number > 3:
            with path.open("ab") as file:
                file.write(b'{"half')
            raise OSError(28, "full")

    with closing(MetricsLog(Disk(before=fail), tmp_path / "m")) as log:
        log.write(step(1))
        with pytest.raises(StorageError):
            log.write(step(2))
    assert [record["step"] for record in runlog.read_metrics(tmp_path / "m").records] == [1]


def test_a_log_whose_last_line_was_torn_goes_on_with_a_line_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "m", step(1))
    with (tmp_path / "m").open("ab") as file:
        file.write(b'{"kind":"st')
    assert write(tmp_path / "m", step(2)) == (tmp_path / "m").stat().st_size
    assert [record["step"] for record in runlog.read_metrics(tmp_path / "m").records] == [1, 2]
    assert (tmp_path / "m").read_bytes().count(b"\n") == 3


def test_f50_a_reader_skips_what_it_cannot_parse_and_counts_it(tmp_path: Path) -> None:
    garbage = [b"\x00" * 50, b"not json", b"[1]", b'{"no":"kind"}', b"[" * 5000]
    lines = [json.dumps(step(1)).encode(), *garbage, json.dumps(step(2)).encode(), b'{"kind":"st']
    (tmp_path / "m").write_bytes(b"\n".join(lines))
    metrics = runlog.read_metrics(tmp_path / "m")
    assert [record["step"] for record in metrics.of("step")] == [1, 2]
    assert metrics.unreadable == len(garbage)


def test_f50_of_two_records_of_one_step_the_later_counts_but_every_event_stays(
    tmp_path: Path,
) -> None:
    event = {"kind": "event", "event": "skipped", "step": 1}
    write(tmp_path / "m", step(1, loss=1.0), event, event, step(1, loss=2.0))
    metrics = runlog.read_metrics(tmp_path / "m")
    assert [record["loss"] for record in metrics.of("step")] == [2.0]
    assert len(metrics.of("event")) == 2


def test_lines_behind_a_checkpoint_are_set_aside_not_lost(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    kept = write(paths.metrics, step(1))
    write(paths.metrics, step(2), step(3))
    assert runlog.cut_metrics(Disk(), paths, kept) == 2
    assert [record["step"] for record in runlog.read_metrics(paths.metrics).records] == [1]
    assert [record["step"] for record in runlog.read_metrics(paths.discarded).records] == [2, 3]


def test_a_log_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    write(RunPaths(tmp_path).metrics, step(1))
    with pytest.raises(CheckpointError, match="the checkpoint saw 9999"):
        runlog.cut_metrics(Disk(), RunPaths(tmp_path), 9999)


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


def test_the_environment_keeps_no_secret() -> None:
    command = ["lengthen", "train", "--api-key=abc", "--token=x", "--run.seed=3"]
    recorded = runlog.environment(command)
    masked = ["lengthen", "train", "--api-key=***", "--token=***", "--run.seed=3"]
    assert recorded["command"] == masked
    assert recorded["packages"]["torch"]
    assert set(recorded["variables"]) <= set(runlog.VARIABLES)


def test_f50_a_last_line_cut_at_any_byte_or_full_of_nul_is_gone_with_the_next_resume(
    tmp_path: Path,
) -> None:
    paths = RunPaths(tmp_path)
    size = write(paths.metrics, step(1), step(2))
    whole = paths.metrics.read_bytes()
    line = json.dumps(step(3)).encode() + b"\n"
    for torn in [*(line[:end] for end in range(1, len(line))), b"\0" * 4096, b"\0" * 9 + b"\n"]:
        paths.metrics.write_bytes(whole + torn)
        assert [r["step"] for r in runlog.read_metrics(paths.metrics).records] == [1, 2]
        runlog.cut_metrics(Disk(), paths, size)
        write(paths.metrics, step(3))
        assert paths.metrics.read_bytes() == whole + line.replace(b": ", b":").replace(b", ", b",")


def test_f51_unknown_kinds_and_fields_are_kept_and_ignored(tmp_path: Path) -> None:
    write(
        tmp_path / "m",
        {"kind": "constellation", "step": 1, "stars": [1, 2]},
        step(1, loss=2.0, mood={"calm": True}),
        {"kind": "event", "event": "eclipse", "step": 1},
    )
    metrics = runlog.read_metrics(tmp_path / "m")
    assert metrics.unreadable == 0
    assert [record["kind"] for record in metrics.records] == ["constellation", "step", "event"]
    assert metrics.of("step")[0]["mood"] == {"calm": True}
