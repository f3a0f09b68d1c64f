"""The queue of a declared study: every run once, whatever ends it on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lengthen.evaluation.evaluate import Evaluations, evaluate
from lengthen.evaluation.results import read
from lengthen.experiments import runner
from lengthen.experiments.compare.compare import compare
from lengthen.run.attempts import read_attempts
from lengthen.run.directory import RunPaths
from lengthen.run.packed import opened
from lengthen.util.errors import SettingError
from scripts import study
from scripts.study import carry_out_study, main, packed_beside
from tests.experiments.conftest import FILE, facts_of, train_here

ROOT = Path(__file__).parents[2]
RUNS = ["baseline/seed-0", "slw/seed-0", "baseline/seed-1", "slw/seed-1"]
WINDOWS = (16,)


@pytest.fixture
def in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are trained, in this process."""
    (tmp_path / "known").mkdir()
    train_here(monkeypatch, tmp_path / "known", {})
    train, names = runner.start, []

    def start(job: runner.Job, machine: runner.Machine, slot: int) -> runner.Process:
        assert (machine.jobs, machine.threads) == (1, 1)
        names.append(job.name)
        return train(job, machine, slot)

    monkeypatch.setattr(runner, "start", start)
    return names


def declared(folder: Path, store: Path) -> Path:
    folder.mkdir()
    file = folder / "small.toml"
    text = FILE.format(store=store).replace("[0, 1, 2]", "[0, 1]")
    file.write_text(text.replace(f'data.path = "{store}"\n', ""), encoding="utf-8")
    return file


def measured(file: Path) -> dict[str, Any]:
    """All that the packed runs of a study say, what the clock on the wall says left out."""
    compare(file, packed_beside(file), look=True, quiet=True)
    facts = dict(facts_of(file.parent))
    with opened(packed_beside(file)) as folder:
        for path in sorted(folder.rglob("evaluations.json")):
            (result,) = read(path)
            outcome = result.outcome
            facts[str(path.relative_to(folder))] = (outcome.measures, outcome.curves, result.step)
    return facts


def test_a_study_goes_seed_by_seed_and_keeps_what_was_measured_but_no_weights(
    store: Path, tmp_path: Path, in_order: list[str]
) -> None:
    file, out = declared(tmp_path / "study", store), tmp_path / "runs"
    assert carry_out_study(file, out, data=store, windows=WINDOWS) == []
    assert in_order == RUNS
    facts = measured(file)
    assert sum(name.endswith("evaluations.json") for name in facts) == 4
    measures, curves, step = facts["runs/slw/seed-1/evaluations.json"]
    assert {"loss", "loss in quarter 4", "context gain over 16"} < {one.name for one in measures}
    assert curves[0].name == "loss by position"
    assert step
    assert not list(out.rglob("checkpoints"))


def test_without_windows_the_validation_part_is_not_read_again(
    store: Path, tmp_path: Path, in_order: list[str]
) -> None:
    file, out = declared(tmp_path / "study", store), tmp_path / "runs"
    assert carry_out_study(file, out, data=store) == []
    assert in_order == RUNS
    assert not any(name.endswith("evaluations.json") for name in measured(file))
    assert not list(out.rglob("checkpoints"))


def test_a_study_that_was_killed_goes_on_elsewhere_and_says_the_same(
    store: Path, tmp_path: Path, in_order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = declared(tmp_path / "whole", store)
    carry_out_study(whole, tmp_path / "whole/runs", data=store, windows=WINDOWS)
    in_order.clear()
    with monkeypatch.context() as broken:

        def dies(run: Path, task: str, **options: Any) -> Evaluations:
            if run.parts[-2:] == ("baseline", "seed-1"):
                raise KeyboardInterrupt
            return evaluate(run, task, **options)

        broken.setattr(study, "evaluate", dies)
        killed = declared(tmp_path / "killed", store)
        with pytest.raises(KeyboardInterrupt):
            carry_out_study(killed, tmp_path / "killed/runs", data=store, windows=WINDOWS)
    assert in_order == RUNS[:3]
    elsewhere = declared(tmp_path / "elsewhere", store)
    shutil.copy(packed_beside(killed), elsewhere.parent)
    carry_out_study(elsewhere, tmp_path / "elsewhere/runs", data=store, windows=WINDOWS)
    assert in_order == [*RUNS[:3], *RUNS[2:]]
    assert measured(elsewhere) == measured(whole)
    # And where it was killed the third run is measured, and not trained again.
    in_order.clear()
    carry_out_study(killed, tmp_path / "killed/runs", data=store, windows=WINDOWS)
    assert in_order == RUNS[3:]
    assert measured(killed) == measured(whole)


def test_a_run_that_was_begun_here_and_ended_elsewhere_is_the_one_from_there(
    store: Path, tmp_path: Path, in_order: list[str]
) -> None:
    file, out = declared(tmp_path / "study", store), tmp_path / "runs"
    carry_out_study(file, out, data=store, windows=WINDOWS)
    begun = RunPaths(out / "runs" / RUNS[1])
    lines = begun.metrics.read_bytes().splitlines(keepends=True)
    begun.metrics.write_bytes(b"".join(lines[:3]))
    in_order.clear()
    before = measured(file)
    carry_out_study(file, out, data=store, windows=WINDOWS)
    assert in_order == []
    assert len(begun.metrics.read_bytes().splitlines()) == len(lines)
    assert measured(file) == before


def test_a_file_that_was_changed_since_its_first_run_is_refused_elsewhere_too(
    store: Path, tmp_path: Path, in_order: list[str]
) -> None:
    file = declared(tmp_path / "study", store)
    carry_out_study(file, tmp_path / "runs", data=store, windows=WINDOWS)
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("[0, 1]", "[0, 1, 2]"), encoding="utf-8")
    in_order.clear()
    with pytest.raises(SettingError, match="seeds"):
        carry_out_study(file, tmp_path / "elsewhere", data=store, windows=WINDOWS)
    assert in_order == []
    carry_out_study(file, tmp_path / "elsewhere", data=store, windows=WINDOWS, amend=True)
    assert in_order == ["baseline/seed-2", "slw/seed-2"]
    compare(file, packed_beside(file), look=True, quiet=True)
    assert "Amended" in (file.parent / "small.json").read_text()


def test_a_run_that_diverges_is_packed_and_one_that_crashes_is_named(
    store: Path, tmp_path: Path, in_order: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = declared(tmp_path / "study", store)
    text = file.read_text(encoding="utf-8").replace("[0, 1]", "[0]")
    wild = '[variants.wild]\npacing.kind = "constant"\n'
    wild += "optimizer = { learning_rate = 1e3, weight_decay = 1e3, warmup_steps = 1 }\n"
    file.write_text(text.partition("[variants.slw]")[0] + wild, encoding="utf-8")
    out = tmp_path / "runs"
    words = [str(file), "--data", str(store), "--out", str(out), "--windows"]
    assert main([*words, "64"]) == 2
    assert "--windows: must be shorter than 64 tokens, got 64" in capsys.readouterr().err
    assert in_order == []
    stranger = out / "runs/baseline/seed-0/not-a-run.txt"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("mine")
    assert main([*words, "16"]) == 1
    assert "crashed: baseline/seed-0" in capsys.readouterr().out
    with opened(packed_beside(file)) as folder:
        assert [path.parent.parent.name for path in folder.rglob("metrics.jsonl")] == ["wild"]
    shutil.rmtree(stranger.parent)
    in_order.clear()
    assert main([*words, "16"]) == 0
    assert in_order == ["baseline/seed-0"]


def test_as_many_runs_go_side_by_side_as_are_asked_for(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, asked = declared(tmp_path / "study", store), list[dict[str, Any]]()
    monkeypatch.setattr(study, "carry_out", lambda *_, **options: asked.append(options))
    words = [str(file), "--data", str(store), "--out", str(tmp_path / "out")]
    for more in ([], ["--jobs", "2"]):
        main([*words, *more])
    assert [(options["jobs"], options["threads"]) for options in asked] == [(1, 1), (2, 1)]


def test_the_runs_of_another_tree_import_its_package(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("lengthen", "scripts"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import subprocess, sys
from scripts.study import import_this_tree
import_this_tree()
where = [sys.executable, "-P", "-c", "import lengthen; print(lengthen.__file__)"]
print(subprocess.check_output(where, text=True))
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert str(tree / "lengthen/__init__.py") in told.stdout


@pytest.mark.slow
def test_a_real_kill_in_a_run_changes_no_figure(store: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def queue(file: Path, *more: str) -> subprocess.Popen[bytes]:
        words = [str(file), "--data", str(store), "--out", str(file.parent / "out")]
        command = [sys.executable, "-m", "scripts.study", *words, "--windows", "16", *more]
        return subprocess.Popen(command, env=environment)

    whole, killed, elsewhere = (
        declared(tmp_path / name, store) for name in ("whole", "killed", "elsewhere")
    )
    assert queue(whole).wait() == 0
    process = queue(killed)
    while not (killed.parent / "out/runs" / RUNS[2] / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shutil.copy(packed_beside(killed), elsewhere.parent)
    with opened(packed_beside(killed)) as folder:
        ended = [path.parent for path in folder.rglob("metrics.jsonl")]
    assert len(ended) == 2
    assert queue(elsewhere, "--jobs", "2").wait() == 0
    assert measured(elsewhere) == measured(whole)
    attempts = read_attempts(elsewhere.parent / "out")
    assert [run for run, record in attempts if record["event"] == "ended"] == RUNS[2:]
