"""Sharded weights and moments (FSDP2) on one GPU, which is then the only rank."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import name_of
from lengthen.checkpoint.write import write_checkpoint
from lengthen.model.shards import is_sharded
from lengthen.training.trainer import Trainer
from lengthen.util.disk import Disk
from tests.conftest import Configure
from tests.gpu.conftest import TrainerOn
from tests.training.test_trainer import kept, poisoned_step

pytestmark = pytest.mark.gpu

MONITOR = ("loss", "grad_norm", "variance_norm", "variance_max")
_left: list[object] = []  # groups whose end waits for that of the process, as in `devices`


@pytest.fixture(autouse=True)
def group(device: torch.device, tmp_path: Path) -> Iterator[None]:
    """A process group of one rank."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    meeting = f"file://{tmp_path / 'meeting'}"
    dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
    yield
    _left.append(dist.group.WORLD)
    dist.destroy_process_group()


@pytest.mark.parametrize("recompute", [False, True])
def test_the_run_is_that_of_whole_weights(
    on_device: Configure, trainer_on: TrainerOn, recompute: bool
) -> None:
    config = on_device(run={"precision": "fp64", "recompute": recompute})
    plain, sharded = trainer_on(config), trainer_on(config, sharded=True)
    assert all(is_sharded(parameter) for parameter in sharded.model.parameters())
    for _ in range(12):
        expected, record = plain.step(), sharded.step()
        assert record is not None
        assert expected is not None
        for name in MONITOR:
            assert getattr(record, name) == pytest.approx(getattr(expected, name), rel=1e-9)
    losses = [trainer.evaluate() for trainer in (plain, sharded)]
    whole, parts = (record.loss for record in losses if record is not None)
    assert parts == pytest.approx(whole, rel=1e-9)


def test_bfloat16_learns(on_device: Configure, trainer_on: TrainerOn) -> None:
    trainer = trainer_on(on_device(run={"precision": "bf16"}), sharded=True)
    records = [trainer.step() for _ in range(20)]
    losses = [record.loss for record in records if record is not None]
    assert (losses[-1] or 0) < 0.8 * (losses[0] or 0)


def save(trainer: Trainer, folder: Path) -> checkpoint.Checkpoint:
    step = trainer.train_state.counters.step
    write_checkpoint(Disk(), folder, step, trainer.tensors(), trainer.state_dict(), trainer.context)
    return checkpoint.load_step(folder, name_of(step), trainer.context)


def test_a_checkpoint_of_shards_goes_on_whole_and_back(
    on_device: Configure, trainer_on: TrainerOn, tmp_path: Path
) -> None:
    config = on_device(run={"precision": "fp64"})
    one = trainer_on(config, sharded=True)
    for _ in range(4):
        one.step()
    (tmp_path / "run").mkdir()
    saved = save(one, tmp_path / "run" / "checkpoints")
    expected = one.step()
    assert expected is not None
    for sharded in (False, True):
        again = trainer_on(config, sharded=sharded)
        again.restore(saved)
        record = again.step()
        assert record is not None
        for name in MONITOR:
            assert getattr(record, name) == pytest.approx(getattr(expected, name), rel=1e-9)


def test_f33_a_step_that_is_not_finite_touches_no_shard(
    on_device: Configure, trainer_on: TrainerOn
) -> None:
    trainer = trainer_on(on_device(), sharded=True)
    for _ in range(3):
        trainer.step()
    before = kept(trainer)
    record = poisoned_step(trainer, gradient=False)
    assert record.finite is False
    after = kept(trainer)
    assert all(torch.equal(after[name], value) for name, value in before.items())
