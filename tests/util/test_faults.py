"""Faults on purpose happen where and as often as they were asked for, and never otherwise."""

import errno
import signal
from pathlib import Path

import pytest
import torch

from lengthen.distributed.memory import is_out_of_memory
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.start import train
from lengthen.util import faults
from lengthen.util.disk import Disk
from lengthen.util.errors import SettingError, StorageError
from tests.conftest import AskFor, Configure, in_a_child


def spoilt_at(site: faults.Site, times: int) -> list[int]:
    return [number for number in range(1, times + 1) if faults.inject(site)]


@pytest.mark.parametrize(
    ("numbers", "expected"), [("3", [3]), ("2-4", [2, 3, 4]), ("4-", [4, 5, 6])]
)
def test_the_numbers_say_at_which_passages(
    ask_for: AskFor, numbers: str, expected: list[int]
) -> None:
    ask_for(f"step:{numbers}:nan")
    assert spoilt_at("eval", 6) == []
    assert spoilt_at("step", 6) == expected


def test_nothing_happens_unless_it_is_asked_for(ask_for: AskFor) -> None:
    ask_for("")
    assert spoilt_at("step", 6) == []
    disk = Disk()
    assert disk.at("save") is disk


@pytest.mark.parametrize("action", faults.ERRORS)
def test_a_site_on_the_disk_fails_as_the_disk_would(
    ask_for: AskFor, tmp_path: Path, action: str
) -> None:
    ask_for(f"save:2:{action}")
    disk = Disk()
    disk.at("log").write_file(tmp_path / "log", b"x")
    with pytest.raises(StorageError) as caught:
        disk.at("save").write_file(tmp_path / "file", b"x")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == getattr(errno, action.upper())
    assert disk.operations == 3 + 2  # every site counts on the one disk


def test_memory_runs_out_in_the_words_of_torch(ask_for: AskFor) -> None:
    ask_for("step:1:oom")
    with pytest.raises(RuntimeError) as caught:
        faults.inject("step")
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.88 GB"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublas`"), False),
    ],
)
def test_what_a_gpu_lacks_memory_for_beside_the_allocator_counts_too(
    error: RuntimeError, is_memory: bool
) -> None:
    assert is_out_of_memory(error) is is_memory


@pytest.mark.parametrize(
    ("action", "code"),
    [("kill", -signal.SIGKILL), ("term", -signal.SIGTERM), ("exit", faults.EXIT)],
)
def test_a_process_ends_as_the_action_says(ask_for: AskFor, action: str, code: int) -> None:
    ask_for(f"step:1:{action}")
    assert in_a_child(lambda: faults.inject("step")) == code


def test_a_step_told_to_is_not_finite_and_no_other(
    configured: Configure, ask_for: AskFor, tmp_path: Path
) -> None:
    ask_for("step:4:nan")
    train(configured(run={"on_nonfinite": "skip"}), tmp_path / "run", quiet=True)
    steps = read_metrics(RunPaths(tmp_path / "run").metrics).steps
    assert [step.step for step in steps if step.loss is None] == [4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stop:3:nan", "did you mean 'step'"),
        ("step:3:nam", "did you mean 'nan'"),
        ("step:x:nan", "numbers such as 7, 7-9 or 7-"),
        ("step", "site:numbers:action"),
    ],
)
def test_a_fault_that_is_none_is_said(ask_for: AskFor, text: str, message: str) -> None:
    ask_for(text)
    with pytest.raises(SettingError, match=message):
        faults.inject("step")
