"""A search stopped, killed or started again comes to the same choice and redoes nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lengthen.config.load import with_overrides
from lengthen.config.schema import Tables
from lengthen.experiments import runner
from lengthen.experiments.runner import Job, Machine, Process
from lengthen.experiments.tune.problem import Problem
from lengthen.experiments.tune.search import MULTIPLES, End, Setting, next_step
from lengthen.experiments.tune.trials import Trial, read_trial, trial_of
from lengthen.run.attempts import ATTEMPTS, ran_side_by_side, read_attempts
from lengthen.run.directory import RunPaths, owned
from lengthen.run.metrics import last_record
from lengthen.training.start import train
from tests.conftest import Configure
from tests.experiments.tune.conftest import (
    ROOM,
    Asked,
    Tuned,
    own,
    plant,
    search_here,
    written,
)

STARTS = (8, 32)  # which race
# Long enough to be killed in the middle, and with evaluations that mean something.
LONGER: Tables = {
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 10, "betas": [0.9, 0.999]},
    "budget": {"tokens": 500_000},
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
        *map(str, STARTS),
        "--threads",
        "1",
    ]
    command = [sys.executable, "-m", "lengthen", *base, "--jobs", str(jobs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def trained(problem: Problem, root: Path) -> list[Trial]:
    """Carry the whole search out in this process."""

    def carry(trial: Trial) -> None:
        train(trial.config, trial.directory(root), quiet=True)

    return search_here(problem, root, carry)


def steps_of(root: Path, trials: list[Trial]) -> list[object]:
    return [
        [replace(step, seconds=None) for step in read_trial(root, trial).metrics.steps]
        for trial in trials
    ]


def choice_of(problem: Problem, root: Path, trials: list[Trial]) -> Setting:
    """Return what the search whose trials lie in `root` has chosen."""
    losses = {trial.setting: read_trial(root, trial).loss for trial in trials}
    end = next_step(problem.space, losses)
    assert isinstance(end, End)
    assert end.chosen is not None
    return end.chosen


def chosen_in(root: Path) -> Setting:
    chosen = json.loads((root / "tune.json").read_text())["chosen"]
    return Setting(chosen["start"], chosen["warmups"])


def wait_for_step(root: Path, trial: Trial, process: subprocess.Popen[str], step: int) -> None:
    log = trial.directory(root) / "metrics.jsonl"
    while (last := last_record(log)) is None or last.step < step:
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.slow
def test_f55_killed_and_started_again_it_repeats_no_finished_trial_and_chooses_the_same(
    asked: Asked, tunable: Configure, tmp_path: Path
) -> None:
    problem, file = asked(starts=STARTS, **LONGER), written(tunable(**LONGER), tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trials = trained(problem, whole)
    *done, last = trials
    own(broken)
    for trial in done:
        shutil.copytree(trial.directory(whole), trial.directory(broken))
    before = [(trial.directory(broken) / "metrics.jsonl").stat().st_mtime_ns for trial in done]
    first = tune(file, broken)
    wait_for_step(broken, last, first, 2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = tune(file, broken)
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    assert [trial.setting.raced for trial in trials][:3] == [False, True, True]
    assert f"{len(trials)} trials" in output
    assert "of them to start, save and watch processes" in output
    assert "trained twice" not in output  # where the tuner dies its trials still save
    assert chosen_in(broken) == choice_of(problem, whole, trials)
    assert steps_of(broken, trials) == steps_of(whole, trials)
    after = [(trial.directory(broken) / "metrics.jsonl").stat().st_mtime_ns for trial in done]
    assert after == before
    assert not list((broken / "trials").rglob("*.safetensors"))


def test_a_trial_is_stopped_as_soon_as_it_is_not_calm_and_none_calm_is_exit_6(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = []

    def endless(job: Job, _machine: Machine, slot: int) -> Process:
        (trial,) = (one for one in every_trial(tuned.problem) if one.name == job.name)
        plant(tuned.root, trial, calm=False)
        processes.append(subprocess.Popen(["sleep", "100"]))
        return Process(job, slot, processes[-1])

    tuned.problem = tuned.asked(**ROOM)
    monkeypatch.setattr(runner, "start", endless)
    monkeypatch.setattr(runner, "LOOK_SECONDS", 0.0)
    assert tuned.again() == 6
    assert "no trial stayed calm for 3 warm-ups (start 8, T 256; " in capsys.readouterr().err
    assert [fact["verdict"] for fact in tuned.facts["trials"]] == ["not calm"] * 5
    assert [process.returncode for process in processes] == [-signal.SIGTERM] * 5
    assert (tuned.root / "tune.html").is_file()


def every_trial(problem: Problem) -> Iterator[Trial]:
    for start in problem.space.starts:
        yield trial_of(problem, Setting(start, 4, opening=True))
        yield from (trial_of(problem, Setting(start, multiple)) for multiple in MULTIPLES)


def test_speculation_that_is_not_needed_any_more_is_stopped_and_counts(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned.problem = tuned.asked(**ROOM)
    wildest = trial_of(tuned.problem, Setting(8, 64))

    def start(job: Job, _machine: Machine, slot: int) -> Process:
        if job.name == wildest.name:
            plant(tuned.root, wildest, calm=True)
            return Process(job, slot, subprocess.Popen(["true"]))
        return Process(job, slot, subprocess.Popen(["sleep", "100"]))

    monkeypatch.setattr(runner, "start", start)
    assert tuned.again("--jobs", "2") == 0
    assert tuned.facts["chosen"]["warmups"] == 64
    assert [fact["verdict"] for fact in tuned.facts["trials"]] == ["calm", "undecided"]
    events = [record["event"] for _, record in read_attempts(tuned.root)]
    assert events == ["started", "started", "ended", "stopped"]
    assert ran_side_by_side(tuned.root)  # so the page draws nothing along seconds
    assert "not needed" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 3])
def test_f55_killed_at_any_moment_it_comes_to_the_choice_of_an_unbroken_search(
    asked: Asked, tunable: Configure, tmp_path: Path, jobs: int
) -> None:
    problem, file = asked(starts=STARTS, **LONGER), written(tunable(**LONGER), tmp_path)
    whole, broken, moments = tmp_path / "whole", tmp_path / "broken", random.Random(5)
    needed = trained(problem, whole)
    for _ in range(4):
        process = tune(file, broken, jobs)
        time.sleep(moments.uniform(2.0, 9.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = tune(file, broken, jobs)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert steps_of(broken, needed) == steps_of(whole, needed)
    assert chosen_in(broken) == choice_of(problem, whole, needed)


def test_what_is_known_is_not_redone_and_comes_to_the_same_choice(tuned: Tuned) -> None:
    trials = tuned([Setting(16, 29)])
    before, tables = tuned.config, tuned.facts
    logs = [trial.directory(tuned.root) / "metrics.jsonl" for trial in trials]
    times = [log.stat().st_mtime_ns for log in logs]
    assert tuned.again() == 0
    own(tuned.root)  # a log that says nothing of them
    assert tuned.again() == 0
    assert (tuned.config, tuned.facts) == (before, tables)
    assert [log.stat().st_mtime_ns for log in logs] == times


def test_trials_whose_memory_ran_out_are_known_in_the_passes_that_they_went_on_in(
    tuned: Tuned,
) -> None:
    trials = tuned([Setting(16, 29)])
    chosen, told = tuned.config, tuned.facts
    for trial in trials[1:]:
        half = {"batch": {"micro_tokens": 128}}
        config = RunPaths(trial.directory(tuned.root)).config
        config.write_text(with_overrides(trial.config, half).to_toml(), encoding="utf-8")
    assert tuned.again() == 0
    assert (tuned.config, tuned.facts) == (chosen, told)


def test_another_configuration_in_the_same_place_has_trials_of_its_own(tuned: Tuned) -> None:
    tuned([Setting(16, 29)])
    slower = {**ROOM, "optimizer": {"learning_rate": 5e-3, "warmup_steps": 4}}
    tuned([Setting(8, 64)], tables=slower)
    assert tuned.facts["chosen"]["start"] == 8
    assert len(tuned.facts["trials"]) == 1
    assert tuned.again() == 0
    assert tuned.facts["chosen"]["start"] == 16


def test_trials_of_a_search_with_other_starts_or_a_bolder_one_are_not_mixed_in(
    tuned: Tuned,
) -> None:
    trials = tuned([Setting(8, 43, rate=2), Setting(16, 43)], "--aggressive")
    other = tuned.asked(starts=(16,), **ROOM)
    search_here(other, tuned.root, tuned.planting([Setting(16, 43)]))
    assert tuned.again("--starts", "16") == 0
    assert {fact["start"] for fact in tuned.facts["trials"]} == {16}
    assert tuned.facts["cost"]["trials"] == 5
    assert tuned.again() == 0
    tried = {(fact["start"], fact["rate"], fact["rows"]) for fact in tuned.facts["trials"]}
    assert tried == {(8, 1, 1)}
    assert tuned.facts["cost"]["trials"] == 5
    assert tuned.again("--aggressive") == 0
    assert tuned.facts["chosen"]["learning_rate"] == 0.02
    assert len(tuned.facts["trials"]) == len(trials)


def test_a_line_that_a_power_cut_tore_takes_no_other_with_it(tuned: Tuned) -> None:
    tuned([Setting(8, 43), Setting(16, 43)])
    other = tuned.asked(starts=(16,), **ROOM)
    search_here(other, tuned.root, tuned.planting([Setting(16, 43)]))
    with (tuned.root / ATTEMPTS).open("a") as file:
        file.write('{"run":"start-8-T-16-beginning","eve')
    assert tuned.again("--starts", "16") == 0
    assert [fact["start"] for fact in tuned.facts["trials"]] == [16] * 5


@pytest.mark.parametrize(
    ("code", "expected", "message"),
    [
        (2, 2, "lengthen: trial {name}: no such thing"),
        (3, 3, "lengthen: trial {name}: no such thing"),
        (7, 7, "lengthen: trial {name}: no such thing"),
        (8, 8, "lengthen: trial {name}: no such thing"),
        (143, 143, "lengthen: trial {name}: no such thing; the same command continues"),
        (1, 1, "this is a bug"),
    ],
)
def test_a_trial_that_crashes_ends_the_search_with_its_own_error(
    tuned: Tuned,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    expected: int,
    message: str,
) -> None:
    def crash(job: Job, _machine: Machine, slot: int) -> Process:
        job.directory.parent.mkdir(parents=True)
        process = Process(job, slot, subprocess.Popen(["sh", "-c", f"exit {code}"]))
        process.log.write_text("lengthen: no such thing\n")
        return process

    monkeypatch.setattr(runner, "start", crash)
    assert tuned.again() == expected
    name = trial_of(tuned.asked(**ROOM), Setting(8, 64)).name
    assert message.format(name=name) in capsys.readouterr().err.splitlines()[-1]
    assert not (tuned.root / "tuned.toml").exists()


def test_a_signal_ends_every_trial_and_says_how_to_go_on(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def endless(job: Job, _machine: Machine, slot: int) -> Process:
        process = subprocess.Popen(["sleep", "100"])
        started.append(process)
        os.kill(os.getpid(), signal.SIGINT)
        return Process(job, slot, process)

    monkeypatch.setattr(runner, "start", endless)
    assert tuned.again() == 130
    assert "the same command continues" in capsys.readouterr().err
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_two_at_once_in_one_directory_are_refused(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    with owned(tuned.root):
        assert tuned.again() == 5
    assert f"in use by pid {os.getpid()}" in capsys.readouterr().err
