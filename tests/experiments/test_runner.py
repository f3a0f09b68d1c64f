"""How runs in processes of their own share the machine."""

import os

import pytest

from lengthen.experiments import runner as processes
from lengthen.experiments.runner import machine_for
from lengthen.model.cost import memory
from lengthen.util.errors import SettingError
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
    need = memory(config.model, 512)
    monkeypatch.setattr(processes, "usable_cores", lambda: 8)
    monkeypatch.setattr(processes, "cpu_memory_limit", lambda: int(2.5 * need))
    assert machine_for([config] * 8, 8, None, None) == processes.Machine(jobs=2, threads=4)


def test_double_precision_needs_twice_the_memory(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(**{**CPU, "run": {"device": "cpu", "precision": "fp64"}})
    need = memory(config.model, 512)
    monkeypatch.setattr(processes, "usable_cores", lambda: 8)
    monkeypatch.setattr(processes, "cpu_memory_limit", lambda: int(4.5 * need))
    assert machine_for([config] * 8, 8, None, None).jobs == 2


def test_a_gpu_that_the_user_hid_stays_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert processes.visible_gpus(2) == ["4", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert processes.visible_gpus(2) == ["0", "1"]
