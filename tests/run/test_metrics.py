"""metrics.jsonl: whole lines, what is set aside, and readers that skip what is damaged."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from lengthen.run.directory import RunPaths
from lengthen.run.metrics import JsonLines, cut_metrics, read_metrics
from lengthen.util.disk import Disk
from lengthen.util.errors import CheckpointError, StorageError
from tests.logs import Line


def write(path: Path, *lines: Line) -> int:
    """Append lines; return the size that the log believes its file has."""
    with closing(JsonLines(Disk(), path)) as log:
        for line in lines:
            log.write(line)
        return log.size


def step(number: int, loss: float | None = 5.0) -> Line:
    return {"kind": "step", "step": number, "loss": loss}


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

    with closing(JsonLines(Disk(before=fail), tmp_path / "m")) as log:
        log.write(step(1))
        with pytest.raises(StorageError):
            log.write(step(2))
    assert [record.step for record in read_metrics(tmp_path / "m").records] == [1]


def test_a_log_whose_last_line_was_torn_goes_on_with_a_line_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "m", step(1))
    with (tmp_path / "m").open("ab") as file:
        file.write(b'{"kind":"st')
    assert write(tmp_path / "m", step(2)) == (tmp_path / "m").stat().st_size
    assert [record.step for record in read_metrics(tmp_path / "m").records] == [1, 2]
    assert (tmp_path / "m").read_bytes().count(b"\n") == 3


def test_f50_a_reader_skips_what_it_cannot_parse_and_counts_it(tmp_path: Path) -> None:
    garbage = [b"\x00" * 50, b"not json", b"[1]", b'{"no":"kind"}', b"[" * 5000]
    lines = [json.dumps(step(1)).encode(), *garbage, json.dumps(step(2)).encode(), b'{"kind":"st']
    (tmp_path / "m").write_bytes(b"\n".join(lines))
    metrics = read_metrics(tmp_path / "m")
    assert [record.step for record in metrics.steps] == [1, 2]
    assert metrics.unreadable == len(garbage)


def test_f50_of_two_records_of_one_step_the_later_counts_but_every_event_stays(
    tmp_path: Path,
) -> None:
    event = {"kind": "event", "event": "skipped", "step": 1}
    write(tmp_path / "m", step(1, loss=1.0), event, event, step(1, loss=2.0))
    metrics = read_metrics(tmp_path / "m")
    assert [record.loss for record in metrics.steps] == [2.0]
    assert len(metrics.events) == 2


def test_lines_behind_a_checkpoint_are_set_aside_not_lost(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    kept = write(paths.metrics, step(1))
    write(paths.metrics, step(2), step(3))
    assert cut_metrics(Disk(), paths, kept) == 2
    assert [record.step for record in read_metrics(paths.metrics).records] == [1]
    assert [record.step for record in read_metrics(paths.discarded).records] == [2, 3]


def test_a_log_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    write(RunPaths(tmp_path).metrics, step(1))
    with pytest.raises(CheckpointError, match="the checkpoint saw 9999"):
        cut_metrics(Disk(), RunPaths(tmp_path), 9999)


def test_f50_a_last_line_cut_at_any_byte_or_full_of_nul_is_gone_with_the_next_resume(
    tmp_path: Path,
) -> None:
    paths = RunPaths(tmp_path)
    size = write(paths.metrics, step(1), step(2))
    whole = paths.metrics.read_bytes()
    line = json.dumps(step(3)).encode() + b"\n"
    for torn in [*(line[:end] for end in range(1, len(line))), b"\0" * 4096, b"\0" * 9 + b"\n"]:
        paths.metrics.write_bytes(whole + torn)
        assert [r.step for r in read_metrics(paths.metrics).records] == [1, 2]
        cut_metrics(Disk(), paths, size)
        write(paths.metrics, step(3))
        assert paths.metrics.read_bytes() == whole + line.replace(b": ", b":").replace(b", ", b",")
