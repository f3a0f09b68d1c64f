"""A comparison in real processes: interrupted, killed and crashed, it comes to the same end."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from lengthen.cli.main import main
from lengthen.data.prepare import prepare
from lengthen.experiments.compare.file import Comparison, read_comparison
from lengthen.experiments.status import attempts_of_runs
from lengthen.run.directory import owned
from lengthen.training.start import train
from tests.experiments.conftest import Written, facts_of, status_of

LONGER = {"[0, 1, 2]": "[0, 1]", "= 6000": "= 40_000", "every_steps = 0": "every_steps = 10"}


def compare(file: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "lengthen", "compare", str(file), "--out", str(out), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps_of(comparison: Comparison, root: Path) -> Sequence[Sequence[object]]:
    return [
        [replace(step, seconds=None) for step in status_of(root, run).metrics.steps]
        for run in comparison.runs
    ]


@pytest.mark.slow
def test_f55_killed_it_gives_the_same_tables_as_unbroken(written: Written, tmp_path: Path) -> None:
    file = written(**(LONGER | {"[0, 1, 2]": "[0]"}))
    comparison = read_comparison(file)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for run in comparison.runs:
        train(run.config, run.directory(whole), quiet=True)
    assert main(["compare", str(file), "--out", str(whole), "--look"]) == 0
    for number in range(2):
        process = compare(file, broken)
        while _steps(comparison, broken) <= 20 * number:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert "begun" in [status_of(broken, run).state for run in comparison.runs]
    done = compare(file, broken)
    _, errors = done.communicate()
    assert done.returncode == 0, errors
    assert facts_of(broken) == facts_of(whole)
    assert steps_of(comparison, broken) == steps_of(comparison, whole)


def test_f55_what_is_finished_is_not_redone_and_needs_no_store(
    trained: tuple[Comparison, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    comparison, root = trained
    before = {run.name: _changed(run.directory(root)) for run in comparison.runs}
    file, nowhere = root / "small.toml", root / "no-such-store"
    assert main(["compare", str(file), "--out", str(root), "--data", str(nowhere)]) == 0
    assert "Results at the end of an equal budget" in capsys.readouterr().out
    assert {run.name: _changed(run.directory(root)) for run in comparison.runs} == before
    assert (root / "small.html").stat().st_size > 100_000


def _steps(comparison: Comparison, root: Path) -> int:
    logs = [run.directory(root) / "metrics.jsonl" for run in comparison.runs]
    return sum(log.read_bytes().count(b'"kind":"step"') for log in logs if log.is_file())


def _changed(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in path.iterdir()}


@pytest.mark.slow
def test_a_signal_saves_every_run_and_the_same_command_goes_on(
    written: Written, tmp_path: Path
) -> None:
    file, root = written(**{**LONGER, "= 40_000": "= 600_000"}), tmp_path / "out"
    comparison = read_comparison(file)
    process = compare(file, root)
    first = comparison.runs[0].directory(root)
    while not (first / "metrics.jsonl").is_file() or b'"step":3' not in _read(first):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "the same command continues" in errors.splitlines()[-1]
    last = json.loads(_read(first).splitlines()[-1])
    assert (last["kind"], last["event"]) == ("event", "saved")


def _read(run: Path) -> bytes:
    return (run / "metrics.jsonl").read_bytes()


@pytest.mark.usefixtures("in_this_process")
def test_f55_a_diverged_variant_is_a_result_and_not_the_end(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overflow = "{ learning_rate = 1e3, weight_decay = 1e3, warmup_steps = 1 }"
    poison = f"[variants.poisoned]\noptimizer = {overflow}\n"
    file = written(more=poison, **{"[0, 1, 2]": "[0]"})
    assert main(["compare", str(file), "--out", str(tmp_path / "out")]) == 0
    comparison = read_comparison(file)
    states = [status_of(tmp_path / "out", run).state for run in comparison.runs]
    assert states[:2] == ["finished", "finished"]
    output = capsys.readouterr().out
    assert "poisoned/seed-0 diverged" in output
    assert "too few seeds" in output


@pytest.mark.usefixtures("in_this_process")
def test_f55_a_crashed_run_is_a_result_with_its_message(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, root = written(**{"[0, 1, 2]": "[0]"}), tmp_path / "out"
    comparison = read_comparison(file)
    place = comparison.runs[0].directory(root)
    place.mkdir(parents=True)
    (place / "not-a-run.txt").write_text("mine")
    assert main(["compare", str(file), "--out", str(root)]) == 0
    shown = capsys.readouterr()
    crash = "baseline/seed-0 crashed: --out: must be a new or empty directory"
    assert crash in shown.out
    assert any(line.startswith("1 of 2  0:00:0") for line in shown.err.splitlines())
    assert "holds other things and is no run" in attempts_of_runs(root)["baseline/seed-0"].message
    assert status_of(root, comparison.runs[1]).state == "finished"


@pytest.mark.usefixtures("in_this_process")
def test_on_a_terminal_a_bar_goes_on_to_its_end_and_each_loss_stays(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = partial(Console, file=screen, force_terminal=True, width=80)
    monkeypatch.setattr("lengthen.util.console.ErrorStream", terminal)
    file, root = written(**{"[0, 1, 2]": "[0, 1]"}), tmp_path / "out"
    assert main(["compare", str(file), "--out", str(root), "--jobs", "1"]) == 0
    shown = screen.getvalue()
    for number in range(4):
        assert f"{number} of 4" in shown
    for run in read_comparison(file).runs:
        loss = status_of(root, run).metrics.evaluations[-1].loss
        assert f"{run.name}: validation loss {loss:.3f}" in shown


def test_two_at_once_in_one_directory_are_refused(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with owned(tmp_path / "out"):
        assert main(["compare", str(written()), "--out", str(tmp_path / "out")]) == 5
    assert f"in use by pid {os.getpid()}" in capsys.readouterr().err


def test_what_is_not_ours_stays(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("small.json", "small.html"):
        for mine in ('{"name": "mine"}', "[" * 10**5):
            (out / name).write_text(mine)
            assert main(["compare", str(written()), "--out", str(out)]) == 2
            assert f"{name}'" in capsys.readouterr().err
            assert (out / name).read_text() == mine
        (out / name).unlink()


def test_finished_runs_of_another_store_are_refused_before_anything_is_trained(
    trained: tuple[Comparison, Path],
    written: Written,
    tmp_path: Path,
    store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, root = trained
    shutil.copytree(root / "runs", tmp_path / "out/runs")
    shutil.rmtree(tmp_path / "out/runs/slw/seed-2")
    text = tmp_path / "other.txt"
    text.write_text("Another text, and not a long one.\n" * 900)
    other = tmp_path / "other"
    prepare([str(text)], other, tokenizer="bytes", valid=0.1, quiet=True)
    code = main(["compare", str(written()), "--out", str(tmp_path / "out"), "--data", str(other)])
    assert code == 2
    assert "was trained on store" in capsys.readouterr().err
    assert not (tmp_path / "out/attempts.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (["--data", "nowhere"], "nowhere"),
        (["--look"], "no run has come to its end yet"),
        (["--batch.rosw", "8"], "did you mean 'rows'?"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_left_behind(
    written: Written,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    code = main(["compare", str(written()), "--out", str(tmp_path / "out"), *words])
    errors = capsys.readouterr().err
    assert code in (2, 3)
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert not (tmp_path / "out").exists()
