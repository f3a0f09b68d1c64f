"""A search in real processes: stopped, killed and started again, it comes to the same choice."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lengthen.cli import main
from lengthen.config import Tables
from lengthen.runlog import last_record
from lengthen.runs import train
from lengthen.tune.question import Question
from lengthen.tune.search import Setting
from lengthen.tune.trials import Trial, place_of, read
from tests.conftest import Configure
from tests.tune.conftest import Asked, own, search_here, written

# Long enough to be killed in the middle, and with evaluations that mean something.
LONGER: Tables = {
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 10, "betas": [0.9, 0.999]},
    "budget": {"tokens": 250_000},
}


def tune(file: str, root: Path, jobs: int = 1) -> subprocess.Popen[str]:
    base = [
        "tune",
        file,
        "--out",
        str(root),
        "--judge-tokens",
        "512",
        "--starts",
        "8",
        "--threads",
        "1",
    ]
    command = [sys.executable, "-m", "lengthen", *base, "--jobs", str(jobs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def trained(question: Question, root: Path) -> list[Trial]:
    """Carry the whole search out in this process."""

    def carry(trial: Trial) -> None:
        train(trial.config, place_of(root, trial), shown=False)

    return search_here(question, root, carry)


def steps_of(root: Path, trials: list[Trial]) -> list[object]:
    return [
        [{**step, "seconds": None} for step in read(root, trial).metrics.of("step")]
        for trial in trials
    ]


def wait_for_step(root: Path, trial: Trial, process: subprocess.Popen[str], step: int) -> None:
    log = place_of(root, trial) / "metrics.jsonl"
    while (last_record(log) or {}).get("step", 0) < step:
        assert process.poll() is None
        time.sleep(0.02)


def test_f55_killed_and_started_again_it_repeats_no_finished_trial_and_chooses_the_same(
    asked: Asked, tunable: Configure, tmp_path: Path
) -> None:
    question, file = asked(starts=(8,), **LONGER), written(tunable(**LONGER), tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trials = trained(question, whole)
    *done, last = trials
    own(broken)
    for trial in done:
        shutil.copytree(place_of(whole, trial), place_of(broken, trial))
    before = [(place_of(broken, trial) / "metrics.jsonl").stat().st_mtime_ns for trial in done]
    first = tune(file, broken)
    wait_for_step(broken, last, first, 2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = tune(file, broken)
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "4 trials" in output
    assert "of them to start, save and watch processes" in output
    assert "trained twice" not in output  # where the tuner dies its trials still save
    assert json.loads((broken / "tune.json").read_text())["chosen"]["warmups"] == 64
    assert steps_of(broken, trials) == steps_of(whole, trials)
    after = [(place_of(broken, trial) / "metrics.jsonl").stat().st_mtime_ns for trial in done]
    assert after == before
    assert not list((broken / "trials").rglob("*.safetensors"))


def test_a_trial_ends_as_soon_as_it_is_not_calm_and_none_calm_is_exit_6(
    asked: Asked, tunable: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild: Tables = {
        "optimizer": {"learning_rate": 1.0, "warmup_steps": 400},
        "budget": {"tokens": 8_000_000},
    }
    root, file = tmp_path / "out", written(tunable(**wild), tmp_path)
    base = ["tune", file, "--out", str(root), "--judge-tokens", "512", "--quiet"]
    assert main([*base, "--starts", "8", "--jobs", "1", "--threads", "1"]) == 6
    said = capsys.readouterr().err
    assert (
        "no trial stayed calm for 3 warm-ups "
        "(start 8, T 1600, beginning; start 8, T 800; start 8, T 400): "
    ) in said
    facts = json.loads((root / "tune.json").read_text())["trials"]
    assert len(facts) == 3
    whole = asked(starts=(8,), **wild).steps(Setting(8, 4, opening=True))
    for fact in facts:
        assert fact["verdict"] == "not calm"
        assert 0 < fact["steps"] < whole
    assert not list(root.rglob("*.safetensors"))
    assert (root / "tune.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 3])
def test_f55_killed_at_any_moment_it_comes_to_the_choice_of_an_unbroken_search(
    asked: Asked, tunable: Configure, tmp_path: Path, jobs: int
) -> None:
    question, file = asked(starts=(8,), **LONGER), written(tunable(**LONGER), tmp_path)
    whole, broken, moments = tmp_path / "whole", tmp_path / "broken", random.Random(5)
    needed = trained(question, whole)
    for _ in range(4):
        process = tune(file, broken, jobs)
        time.sleep(moments.uniform(2.0, 9.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = tune(file, broken, jobs)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert steps_of(broken, needed) == steps_of(whole, needed)
    chosen = json.loads((broken / "tune.json").read_text())["chosen"]
    assert chosen["warmups"] == needed[-1].setting.multiple
