"""bfloat16 casts each weight once a step, no cast outlives its weight, and bits heed no load."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile

from lengthen.checkpoint.read import Checkpoint
from lengthen.config.schema import Config
from lengthen.distributed.context import DistributedContext
from lengthen.training.trainer import Trainer
from tests.conftest import Configure, trainer_of
from tests.ranks import joined_trainer, results

LOW: dict[str, Any] = {
    "run": {"precision": "bf16"},
    "pacing": {"kind": "constant"},
    "batch": {"rows": 8, "micro_tokens": 128},  # four micro-batches
    "model": {"layers": 2, "width": 16, "heads": 2, "length": 64},
}


def casts(trainer: Trainer) -> Counter[tuple[int, ...]]:
    """Train a step; return how many tensors of each shape its forward passes cast."""
    with profile(record_shapes=True) as profiled:
        trainer.step()
    return Counter(
        tuple(event.input_shapes[0])
        for event in profiled.events() or []
        if event.name == "aten::_to_copy" and not is_backward(event)
    )


def is_backward(event: FunctionEvent | None) -> bool:
    return event is not None and ("Backward" in event.name or is_backward(event.cpu_parent))


@pytest.mark.parametrize("every", [0, 1], ids=["plain", "watched"])
def test_a_step_casts_each_weight_of_a_layer_once(configured: Configure, every: int) -> None:
    trainer = trainer_of(configured(**LOW, monitor={"every_steps": every}))
    blocks = trainer.model.blocks.named_parameters()
    cast_once = Counter(tuple(p.shape) for name, p in blocks if "norm" not in name)
    for _ in range(2):  # the second one has updated weights
        found = casts(trainer)
        assert {shape: found[shape] for shape in cast_once} == cast_once


def sums(trainer: Trainer) -> list[float]:
    groups = trainer.tensors().values()
    return [float(value.double().sum()) for named in groups for value in named.values()]


def trained(trainer: Trainer) -> list[float]:
    """Train some steps among evaluations and a return to an earlier state; return its numbers."""
    for _ in range(2):
        trainer.step()
    early = {
        group: {name: value.clone() for name, value in named.items()}
        for group, named in trainer.tensors().items()
    }
    state = trainer.state_dict()
    trainer.step()
    losses = [getattr(trainer.evaluate(), "loss", 0.0)]
    trainer.restore(Checkpoint(Path("step-2"), 2, state, early, ""))
    losses += [getattr(trainer.probe(), "loss", 0.0)]
    losses += [getattr(trainer.step(), "loss", 0.0) for _ in range(2)]
    return losses + sums(trainer)


def fresh(work: Callable[[], Any]) -> Any:
    """Return what work gives where every forward pass makes casts of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistributedContext, "keeps_casts", lambda _: nullcontext())
        return work()


def test_kept_casts_train_the_bits_of_fresh_ones(configured: Configure) -> None:
    config = configured(**LOW)
    assert trained(trainer_of(config)) == fresh(lambda: trained(trainer_of(config)))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_no_autocast_of_a_host_program_reaches_a_run(configured: Configure, precision: str) -> None:
    config = configured(**{**LOW, "run": {"precision": precision}})
    alone = trained(trainer_of(config))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert trained(trainer_of(config)) == alone


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_all_micro_batches_are_summed_in_float32(
    configured: Configure, recompute: bool
) -> None:
    run = {"precision": "bf16", "recompute": recompute}
    # With beta1 = 0 Adam's first moment is the gradient itself.
    optimizer = {"betas": [0.0, 0.9], "clip": 0.0, "warmup_steps": 0}
    found = []
    for size in (128, 512):
        batch = {"rows": 8, "micro_tokens": size}
        trainer = trainer_of(
            configured(**{**LOW, "run": run, "batch": batch, "optimizer": optimizer})
        )
        trainer.step()
        moments = trainer.tensors()["optimizer"]
        found.append({n: v for n, v in moments.items() if n.endswith("exp_avg")})
    split, whole = found
    for name, value in whole.items():
        assert split[name].dtype == torch.float32
        # Each of four sums is of 128 tokens in bfloat16; the sum of them has no such digits.
        assert (split[name] - value).norm() < 0.01 * value.norm(), name


@pytest.mark.ranks
@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_kept_casts_train_the_bits_of_fresh_ones_on_two_ranks(
    configured: Configure, sharded: bool
) -> None:
    config = configured(**{**LOW, "run": {"precision": "bf16", "sharded": sharded}})

    kept = results(*[partial(on_rank, config)] * 2)
    assert kept == results(*[partial(fresh, partial(on_rank, config))] * 2)


def on_rank(config: Config) -> list[float]:
    with joined_trainer(config) as trainer:
        losses = [getattr(trainer.step(), "loss", 0.0) for _ in range(3)]
        losses.append(getattr(trainer.evaluate(), "loss", 0.0))
        losses.append(getattr(trainer.step(), "loss", 0.0))
        return losses


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def busy_processors() -> Iterator[None]:
    """Have two processes compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_busy_machine_changes_no_bit(configured: Configure, precision: str) -> None:
    tables = {
        "run": {"precision": precision},
        "model": {"layers": 1, "width": 128, "heads": 2, "length": 64},
        "pacing": {"kind": "linear", "start": 8, "duration": 2},
        "batch": {"rows": 16, "micro_tokens": 512},
    }

    def run() -> list[float]:
        trainer = trainer_of(configured(**tables))
        return [getattr(trainer.step(), "loss", 0.0) for _ in range(3)] + sums(trainer)

    with threads(2):
        alone = run()
        with busy_processors():
            assert run() == alone
