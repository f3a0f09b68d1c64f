"""Runs in processes of their own: how they share the machine, and how they end."""

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lengthen.config.schema import Config
from lengthen.experiments import runner
from lengthen.experiments.runner import Event, Job, Machine, Process, machine_for, run_jobs
from lengthen.model.cost import memory
from lengthen.util.errors import SettingError, StoppedError
from tests.conftest import Configure

CPU = {"run": {"device": "cpu"}, "model": {"vocabulary": 257}}


def test_runs_share_the_cores(configured: Configure) -> None:
    configs = [configured(**CPU)] * 6
    cores = len(os.sched_getaffinity(0))
    machine = machine_for(configs, 6, None, None)
    assert machine.jobs == min(cores, len(configs))
    assert machine.threads == max(1, cores // machine.jobs)
    assert machine_for(configs, 6, 1, None).threads == cores
    assert machine_for(configs, 6, 100, 3) == machine_for(configs, 6, 6, 3)
    with pytest.raises(SettingError, match="--threads"):
        machine_for(configs, 6, 1, 0)


def test_no_more_run_side_by_side_than_memory_holds(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(**CPU)
    need = memory(config.model, 256)
    monkeypatch.setattr(runner, "usable_cores", lambda: 8)
    monkeypatch.setattr(runner, "cpu_memory_limit", lambda: int(2.5 * need))
    assert machine_for([config] * 8, 8, None, None) == Machine(jobs=2, threads=4)


def test_double_precision_needs_twice_the_memory(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(**{**CPU, "run": {"device": "cpu", "precision": "fp64"}})
    need = memory(config.model, 256)
    monkeypatch.setattr(runner, "usable_cores", lambda: 8)
    monkeypatch.setattr(runner, "cpu_memory_limit", lambda: int(4.5 * need))
    assert machine_for([config] * 8, 8, None, None).jobs == 2


def test_larger_micro_batches_than_auto_takes_need_their_memory(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {"rows": 128, "micro_tokens": 10**6}  # of which a step has 8,192
    config = configured(**CPU, batch=batch)
    monkeypatch.setattr(runner, "usable_cores", lambda: 8)
    limit = int(2.5 * memory(config.model, 8192))
    monkeypatch.setattr(runner, "cpu_memory_limit", lambda: limit)
    auto = configured(**CPU, batch={**batch, "micro_tokens": "auto"})
    assert machine_for([config, auto] * 4, 8, None, None).jobs == 2
    assert machine_for([auto] * 8, 8, None, None).jobs > 2


def test_a_gpu_that_the_user_hid_stays_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert runner.visible_gpus(2) == ["4", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert runner.visible_gpus(2) == ["0", "1"]


@dataclass
class Wanting:
    """An experiment that wants what it is given, and writes down what happens."""

    wants: Callable[[Sequence[str]], Sequence[str]]  # what has happened -> names of jobs
    config: Config
    root: Path
    events: list[str] = field(default_factory=list)

    def jobs_to_run(self, running: Sequence[Job]) -> Sequence[Job]:
        return [Job(name, name, self.root / name, self.config) for name in self.wants(self.events)]

    def starting(self, job: Job) -> None:
        self.events.append(f"{job.name} started")

    def ended(self, process: Process, event: Event, message: str) -> None:
        self.events.append(f"{process.job.name} {event}" + (f" with {message}" if message else ""))

    def say(self, text: str) -> None:
        self.events.append(text)


@pytest.fixture
def carried_out(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Give what carries jobs out whose processes are shell commands; it returns what happened."""

    def carry_out(
        wants: Callable[[Sequence[str]], Sequence[str]],
        *,
        jobs: int = 2,
        ends_with: type[BaseException] | None = None,
        **commands: Sequence[str],
    ) -> list[str]:
        left = {name: list(words) for name, words in commands.items()}

        def start(job: Job, _machine: Machine, slot: int) -> Process:
            popen = subprocess.Popen(["sh", "-c", left[job.name].pop(0)])
            process = Process(job, slot, popen)
            process.log.write_text("lengthen: its error\n")
            return process

        monkeypatch.setattr(runner, "start", start)
        monkeypatch.setattr(runner, "LOOK_SECONDS", 0.02)
        monkeypatch.setattr(runner, "BUSY_SECONDS", 0.05)
        experiment = Wanting(wants, configured(), tmp_path)
        with pytest.raises(ends_with) if ends_with else nullcontext():
            run_jobs(experiment, Machine(jobs, 1), tmp_path)
        return experiment.events

    return carry_out


def unfinished(*names: str) -> Callable[[Sequence[str]], Sequence[str]]:
    """Want each until it has ended by itself."""

    def wants(events: Sequence[str]) -> Sequence[str]:
        return [name for name in names if not any(f"{name} ended" in event for event in events)]

    return wants


def test_each_job_runs_once_and_as_many_side_by_side_as_there_is_room_for(
    carried_out: Callable[..., list[str]],
) -> None:
    events = carried_out(unfinished("a", "b", "c"), a=["true"], b=["true"], c=["exit 4"])
    assert events[:2] == ["a started", "b started"]
    assert sorted(events[2:]) == ["a ended", "b ended", "c ended with its error", "c started"]


def test_what_is_not_wanted_any_more_is_stopped(carried_out: Callable[..., list[str]]) -> None:
    def wants(events: Sequence[str]) -> Sequence[str]:
        return [] if "b ended" in events else ["b", "c"] if "a ended" in events else ["a", "c"]

    commands = {"a": ["true"], "b": ["sleep 0.1"], "c": ["exec sleep 100"]}
    events = carried_out(wants, **commands)
    assert events[-2:] == ["b ended", "c stopped"]
    assert carried_out(
        lambda events: ["d"] if "c started" in events else ["c"],
        jobs=1,
        c=["exec sleep 100"],
        d=["kill -INT $PPID; exec sleep 100"],
        ends_with=StoppedError,
    ) == ["c started", "c cancelled", "d started", "stopping: each run saves first", "d stopped"]


def test_a_run_that_another_process_has_is_tried_again_and_that_is_said_once(
    carried_out: Callable[..., list[str]],
) -> None:
    events = carried_out(unfinished("a"), a=["exit 5", "exit 5", "true"])
    assert events == [
        "a started",
        "a: its error; trying again later",
        "a busy",
        "a started",
        "a busy",
        "a started",
        "a ended",
    ]


def test_an_error_of_the_experiment_stops_every_run(carried_out: Callable[..., list[str]]) -> None:
    def wants(events: Sequence[str]) -> Sequence[str]:
        if "a ended" in events:
            raise KeyError
        return ["a", "b"]

    events = carried_out(wants, a=["true"], b=["exec sleep 100"], ends_with=KeyError)
    assert events == ["a started", "b started", "a ended", "b stopped"]
