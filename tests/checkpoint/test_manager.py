"""Saving in the background: the copy is what is loaded, and no failure is lost or hidden."""

import errno
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.manager import CheckpointManager
from lengthen.checkpoint.verify import damage, list_checkpoints, name_of
from lengthen.distributed.context import DistributedContext
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.start import train
from lengthen.util.disk import Disk
from lengthen.util.errors import StorageError
from tests.conftest import Configure

CONTEXT = DistributedContext(torch.device("cpu"))


def test_weights_that_train_on_do_not_reach_the_checkpoint(tmp_path: Path) -> None:
    may_write = threading.Event()

    def wait(_number: int, _name: str, _path: Path) -> None:
        assert may_write.wait(10)

    disk = Disk(before=wait)
    weights = torch.arange(6.0)
    with closing(CheckpointManager(disk, tmp_path, 2, CONTEXT, asynchronous=True)) as saves:
        for step in (1, 2):
            may_write.clear()
            tensors = {"model": {"w": weights}, "optimizer": {}}
            assert saves.write(step, tensors, {"step": step}, wait=False) is None
            weights += 100
            assert saves.finish(wait=False) is None
            assert saves.step == (None if step == 1 else 1)
            may_write.set()
            assert saves.finish(wait=True) == name_of(step)
            loaded = checkpoint.load_newest(tmp_path)[0]
            assert torch.equal(loaded.tensors["model"]["w"], weights - 100)


def test_the_end_waits_for_what_is_still_being_written(tmp_path: Path) -> None:
    disk = Disk(before=lambda number, name, path: time.sleep(0.02))
    with closing(CheckpointManager(disk, tmp_path, 2, CONTEXT, asynchronous=True)) as saves:
        saves.write(1, {"model": {"w": torch.ones(3)}}, {}, wait=False)
        assert not list_checkpoints(tmp_path)
    assert checkpoint.load_newest(tmp_path)[0].step == 1


def full_at(steps: set[int]) -> Disk:
    def before(_number: int, name: str, path: Path) -> None:
        names = {name_of(step) for step in steps}
        if name == "create" and any(one in str(path.parent) for one in names):
            raise OSError(errno.ENOSPC, "full")

    return Disk(before=before)


def test_f03_one_failure_is_an_event_and_two_in_a_row_end_the_run(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(saving={"every_steps": 4, "asynchronous": True})
    train(config, tmp_path / "one", disk=full_at({8}), quiet=True)
    events = read_metrics(RunPaths(tmp_path / "one").metrics).events
    assert sum(event.name == "save_failed" for event in events) == 1
    saved = [event.facts["name"] for event in events if event.name == "saved"]
    assert name_of(4) in saved
    assert name_of(8) not in saved
    with pytest.raises(StorageError, match="free some space"):
        train(config, tmp_path / "two", disk=full_at({8, 12}), quiet=True)
    assert checkpoint.load_newest(RunPaths(tmp_path / "two").checkpoints)[0].step == 4


def test_no_checkpoint_is_called_saved_before_it_is(configured: Configure, tmp_path: Path) -> None:
    config = configured(saving={"every_steps": 1, "asynchronous": True, "keep": 3})
    train(config, tmp_path / "run", quiet=True)
    events = read_metrics(RunPaths(tmp_path / "run").metrics).events
    named = [event.facts["name"] for event in events if event.name == "saved"]
    there = list_checkpoints(RunPaths(tmp_path / "run").checkpoints)
    assert [path.name for path in there] == named[:-4:-1]
    assert not [path for path in there if damage(path)]
    assert not []
