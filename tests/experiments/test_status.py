"""Where a run stands is read from its files: nothing else has to survive."""

import json
import shutil
from pathlib import Path

import pytest

from lengthen.experiments.compare.file import Comparison, Planned, read_comparison
from lengthen.experiments.status import attempts_of_runs
from lengthen.run.attempts import ATTEMPTS
from lengthen.run.directory import RunPaths
from lengthen.util.errors import SettingError
from tests.experiments.conftest import Written, status_of
from tests.logs import bad, evaluation, skipped, step


@pytest.fixture
def one(trained: tuple[Comparison, Path], tmp_path: Path) -> tuple[Planned, Path]:
    """A finished run in a directory of its own."""
    comparison, root = trained
    run = comparison.runs[0]
    shutil.copytree(run.directory(root), run.directory(tmp_path))
    return run, tmp_path


def test_a_run_is_finished_when_its_log_ends_so(one: tuple[Planned, Path]) -> None:
    run, root = one
    assert status_of(root, run).state == "finished"
    log = RunPaths(run.directory(root)).metrics
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert status_of(root, run).state == "begun"
    log.unlink()
    assert status_of(root, run).state == "missing"


@pytest.mark.parametrize(("diverged", "state"), [(True, "diverged"), (False, "begun")])
def test_a_run_that_ended_not_finite_is_not_redone(
    written: Written, tmp_path: Path, diverged: bool, state: str
) -> None:
    run = read_comparison(written()).runs[0]
    paths = RunPaths(run.directory(tmp_path))
    paths.root.mkdir(parents=True)
    paths.config.write_text(run.config.to_toml())
    paths.metrics.write_text(json.dumps(skipped(1, diverged=diverged)) + "\n")
    assert status_of(tmp_path, run).state == state


@pytest.mark.parametrize(
    ("loss", "state"), [(4.9, "finished"), (None, "diverged")], ids=["finite", "not finite"]
)
def test_the_loss_at_the_end_decides_about_a_run_whose_last_step_was_skipped(
    written: Written, tmp_path: Path, loss: float | None, state: str
) -> None:
    run = read_comparison(written(), {"run": {"on_nonfinite": "skip"}}).runs[0]
    paths = RunPaths(run.directory(tmp_path))
    paths.root.mkdir(parents=True)
    paths.config.write_text(run.config.to_toml())
    end = {"kind": "event", "event": "finished", "step": 4}
    lines = [step(3), bad(4), evaluation(4, loss), end]
    paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert status_of(tmp_path, run).state == state


def test_a_published_run_needs_no_store(one: tuple[Planned, Path]) -> None:
    run, root = one
    config = RunPaths(run.directory(root)).config
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith("path = ")))
    assert status_of(root, run).state == "finished"


def test_another_run_in_its_place_is_refused(written: Written, one: tuple[Planned, Path]) -> None:
    _, root = one
    other = read_comparison(written(), {"optimizer": {"clip": 0.5}}).runs[0]
    with pytest.raises(SettingError, match=r"optimizer\.clip: .* holds a run with 1\.0, got 0\.5"):
        status_of(root, other)


def test_only_a_run_whose_every_process_was_alone_counts_as_timed(tmp_path: Path) -> None:
    started = [("a", 1), ("b", 1), ("b", 2), ("c", 2)]
    lines = [{"run": run, "event": "started", "jobs": jobs} for run, jobs in started]
    lines.append({"run": "c", "event": "ended", "message": "out of memory"})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / ATTEMPTS).write_text(text + '{"run": "a", "event"')
    attempts = attempts_of_runs(tmp_path)
    assert [attempts[run].alone for run in "abc"] == [True, False, False]
    assert attempts["c"].message == "out of memory"
    assert attempts_of_runs(tmp_path / "none") == {}
