"""SIGKILL at every single operation on the disk: nothing that was saved is ever lost."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lengthen.checkpoint.verify import damage, list_checkpoints
from lengthen.config.schema import Config
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.start import resume, train
from lengthen.util.disk import Disk
from tests.conftest import Configure, in_a_child
from tests.training.test_resume import lines_of

SAVES = {"every_steps": 2, "keep": 1}


def killed_in(work: Callable[[Disk], object], at: int) -> bool:
    """Do the work in a process of its own that dies at operation `at`; return whether it did."""

    def before(number: int, _name: str, _path: Path) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return in_a_child(lambda: work(Disk(before=before))) == -signal.SIGKILL


def resumes_to_the_same_end(config: Config, run: Path, unbroken: Path) -> None:
    """Bring a killed run to its end, which is that of the unbroken one."""
    paths = RunPaths(run)
    there = list_checkpoints(paths.checkpoints)
    assert all(not damage(path) for path in there)
    train(config, run, resume="auto", quiet=True)
    assert lines_of(run, "step") == lines_of(unbroken, "step")
    assert not list(paths.checkpoints.glob(".t*"))


def operations(config: Config, run: Path) -> int:
    disk = Disk()
    train(config, run, disk=disk, quiet=True)
    return disk.operations


def test_a_run_killed_while_it_writes_its_configuration(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(budget={"tokens": 500}, saving=SAVES)
    touched: list[int] = []

    def before(number: int, _name: str, path: Path) -> None:
        follows = path.name == "unbroken" and touched[-1:] == [number - 1]
        if "config.toml" in path.name or follows:
            touched.append(number)

    train(config, tmp_path / "unbroken", disk=Disk(before=before), quiet=True)
    assert len(touched) == 5  # create, write, sync, rename, and the directory's sync
    for at in touched:
        run = tmp_path / str(at)

        def begin(disk: Disk, run: Path = run) -> None:
            train(config, run, disk=disk, quiet=True)

        assert killed_in(begin, at)
        resumes_to_the_same_end(config, run, tmp_path / "unbroken")


@pytest.mark.parametrize("stride", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_f01_f13_a_new_run_killed_anywhere(
    configured: Configure, tmp_path: Path, stride: int
) -> None:
    config = configured(budget={"tokens": 1_500}, saving=SAVES)
    every = operations(config, tmp_path / "unbroken")
    assert every > 100
    for at in range(1, every + 1, stride):
        run = tmp_path / str(at)

        def begin(disk: Disk, run: Path = run) -> None:
            train(config, run, disk=disk, quiet=True)

        assert killed_in(begin, at)
        log = RunPaths(run).metrics
        logged = read_metrics(log).events if log.exists() else []
        saved = [event.facts["name"] for event in logged if event.name == "saved"]
        there = [path.name for path in list_checkpoints(RunPaths(run).checkpoints)]
        assert max(there, default="") >= max(saved, default="")
        resumes_to_the_same_end(config, run, tmp_path / "unbroken")


@pytest.mark.parametrize("stride", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_f01_a_resumed_run_killed_anywhere_and_again(
    configured: Configure, tmp_path: Path, stride: int
) -> None:
    config = configured(budget={"tokens": 1_500}, saving={**SAVES, "keep": 9})
    operations(config, tmp_path / "unbroken")
    at = 1
    while True:
        run = tmp_path / str(at)
        train(config, run, quiet=True)
        back = list_checkpoints(RunPaths(run).checkpoints)[-2].name

        def again(disk: Disk, run: Path = run, back: str = back) -> None:
            resume(run, checkpoint=back, disk=disk, quiet=True)

        if not killed_in(again, at):
            break
        killed_in(again, at + 3)  # a second fault while it recovers from the first
        resumes_to_the_same_end(config, run, tmp_path / "unbroken")
        at += stride
    assert at > 100
