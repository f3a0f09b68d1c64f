"""Subnormal numbers count as zero on every thread of a process that computes."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from lengthen.checkpoint.verify import list_checkpoints
from lengthen.cli.main import entry, main
from lengthen.distributed.subnormals import GRAIN, flush_subnormals, flushes_subnormals
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.start import resume
from tests.conftest import Configure, in_a_child
from tests.exchange.made import TINY, saved_run

THREADS = 2


def left(threads: int = THREADS) -> list[int]:
    """How many numbers each thread leaves of the subnormal ones that it multiplies by one."""
    numbers = torch.ones(GRAIN * threads, dtype=torch.int32).view(torch.float32)
    # As bits: whoever flushes sees a zero where another thread left a number.
    return (numbers * 1.0).view(torch.int32).view(threads, GRAIN).count_nonzero(1).tolist()


def computed(words: list[str]) -> None:
    """Carry out a command as its own process does, and look at the threads that it leaves."""
    torch.set_num_threads(THREADS)
    with patch.object(sys, "argv", ["lengthen", *words]), suppress(SystemExit):
        entry()
    assert left() == [0] * THREADS


def late() -> None:
    torch.set_num_threads(THREADS)
    assert left() == [GRAIN] * THREADS  # starts the threads
    assert not flushes_subnormals()
    assert not flush_subnormals()
    assert left() == [GRAIN] * THREADS
    assert not flushes_subnormals()


def mixed() -> None:
    late()
    torch.set_flush_denormal(True)
    assert left() == [0, GRAIN]
    assert not flushes_subnormals()


def training(configured: Configure, folder: Path) -> list[str]:
    (folder / "a.toml").write_text(configured(budget={"tokens": 1_000}).to_toml())
    return ["train", str(folder / "a.toml"), "--quiet", "--out", str(folder / "trained")]


def evaluating(configured: Configure, folder: Path) -> list[str]:
    path = configured().data.path
    run = saved_run(folder / "run", TINY)
    return ["eval", str(run), "--tasks", "valid", "--data", str(path), "--limit", "2"]


def sampling(configured: Configure, folder: Path) -> list[str]:
    return ["sample", str(saved_run(folder / "run", TINY)), "--tokens", "2"]


def planning(configured: Configure, folder: Path) -> list[str]:
    (folder / "a.toml").write_text(configured(model={"vocabulary": 257}).to_toml())
    return ["plan", str(folder / "a.toml")]


@pytest.mark.parametrize(
    "words",
    [
        training,
        evaluating,
        *(pytest.param(w, marks=pytest.mark.slow) for w in (sampling, planning)),
    ],
)
def test_every_thread_of_a_command_that_computes_flushes(
    configured: Configure, tmp_path: Path, words: Callable[[Configure, Path], list[str]]
) -> None:
    assert in_a_child(partial(computed, words(configured, tmp_path))) == 0


@pytest.mark.parametrize("work", [late, mixed])
def test_threads_that_run_already_keep_their_mode_and_then_none_is_changed(
    work: Callable[[], None],
) -> None:
    assert in_a_child(work) == 0


def test_a_run_records_whether_its_threads_flush(configured: Configure, tmp_path: Path) -> None:
    assert in_a_child(partial(computed, training(configured, tmp_path))) == 0
    paths = RunPaths(tmp_path / "trained")
    state = json.loads((list_checkpoints(paths.checkpoints)[0] / "state.json").read_bytes())
    assert state["numerics"]["flush_subnormals"] is True
    assert json.loads(paths.environment.read_bytes())["flush_subnormals"] is True


def test_a_run_that_continues_in_the_other_mode_says_so(
    configured: Configure, tmp_path: Path
) -> None:
    assert in_a_child(partial(computed, training(configured, tmp_path))) == 0
    run = tmp_path / "trained"
    resume(run, settings={"budget": {"tokens": 2_000}}, quiet=True)
    events = read_metrics(RunPaths(run).metrics).events
    notes = [event.facts["text"] for event in events if "flush" in event.facts.get("text", "")]
    rule = "equal to rounding, not to the last digit"
    assert notes == [f"flush_subnormals was True, is False: {rule}"]


def test_a_host_that_calls_us_keeps_its_mode(configured: Configure, tmp_path: Path) -> None:
    assert main(training(configured, tmp_path)) == 0
    assert not flushes_subnormals()
    state = json.loads(RunPaths(tmp_path / "trained").environment.read_bytes())
    assert state["flush_subnormals"] is False
