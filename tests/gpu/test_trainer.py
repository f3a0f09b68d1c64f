"""The step on a GPU: what a processor computes, and no more waiting than it needs."""

import warnings
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from lengthen.run.records import StepRecord
from lengthen.training.trainer import Trainer
from tests.conftest import Configure
from tests.gpu.conftest import TrainerOn
from tests.training.test_trainer import GRADIENTS, gradients, kept, poisoned_step

pytestmark = pytest.mark.gpu

MONITOR = ("loss", "grad_norm", "variance_norm", "variance_max")
EXACT = ("step", "tokens", "length", "rows", "lr", "joined")


def steps(trainer: Trainer, count: int) -> list[StepRecord]:
    records = [trainer.step() for _ in range(count)]
    return [record for record in records if record is not None]


@pytest.mark.parametrize(
    ("tables", "first", "later"),
    [
        ({"run": {"precision": "fp64"}}, 1e-12, 1e-9),
        ({"run": {"precision": "fp32"}}, 1e-6, 1e-3),
        ({"run": {"precision": "fp64", "recompute": True}}, 1e-12, 1e-9),
        ({"run": {"precision": "fp64"}, "batch": {"hold": "tokens"}}, 1e-12, 1e-9),
    ],
    ids=["fp64", "fp32", "recomputed", "held tokens"],
)
def test_the_run_is_that_of_a_processor(
    on_device: Configure, trainer_on: TrainerOn, tables: dict[str, Any], first: float, later: float
) -> None:
    config = on_device(**tables)
    here, there = (steps(trainer_on(config, where), 14) for where in ("", "cpu"))
    assert len(here) == 14
    for number, (mine, other) in enumerate(zip(here, there, strict=True)):
        assert [getattr(mine, name) for name in EXACT] == [getattr(other, name) for name in EXACT]
        for name in MONITOR:
            assert getattr(mine, name) == pytest.approx(
                getattr(other, name), rel=later if number else first * 10
            )
    assert here[0].loss == pytest.approx(there[0].loss, rel=first)


def test_bfloat16_has_the_gradient_of_float32_to_its_own_digits(
    on_device: Configure, trainer_on: TrainerOn
) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        trainer = trainer_on(on_device(**{**GRADIENTS, "run": {"precision": precision}}))
        (record,) = steps(trainer, 1)
        found[precision] = record.loss, gradients(trainer)
        assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())
    (loss, exact), (low_loss, low) = found["fp32"], found["bf16"]
    assert low_loss == pytest.approx(loss, rel=2e-3)
    for name, gradient in exact.items():
        likeness = torch.cosine_similarity(gradient.flatten(), low[name].flatten(), dim=0)
        assert float(likeness) > 0.99, name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_learns(on_device: Configure, trainer_on: TrainerOn, precision: str) -> None:
    records = steps(trainer_on(on_device(run={"precision": precision})), 20)
    assert (records[-1].loss or 0) < 0.8 * (records[0].loss or 0)


@pytest.mark.usefixtures("same_bits")
@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_dropped_is_drawn_from_the_seed_alone(
    on_device: Configure, trainer_on: TrainerOn, recompute: bool
) -> None:
    config = on_device(model={"dropout": 0.2}, run={"recompute": recompute})
    one = [record.loss for record in steps(trainer_on(config), 4)]
    torch.rand(7, device=trainer_on(config).context.device)  # chance that is none of the run's
    again = [record.loss for record in steps(trainer_on(config), 4)]
    assert again == one
    plain = on_device(run={"recompute": recompute})
    assert one != [record.loss for record in steps(trainer_on(plain), 4)]


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # torch's compiler warns of its own insides
def test_compiled_training_makes_few_graphs_and_the_same_losses(
    on_device: Configure, trainer_on: TrainerOn
) -> None:
    plain = trainer_on(on_device())
    counters.clear()
    compiled = trainer_on(on_device(run={"compile": "on"}))
    expected, found = steps(plain, 14), steps(compiled, 14)
    assert len({record.length for record in found}) == 8
    for mine, other in zip(found, expected, strict=True):
        assert mine.loss == pytest.approx(other.loss, rel=1e-4)
    assert counters["stats"]["unique_graphs"] <= 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_f32_f33_a_step_that_is_not_finite_touches_nothing_but_the_clock(
    on_device: Configure, trainer_on: TrainerOn, precision: str, gradient: bool
) -> None:
    trainer = trainer_on(on_device(run={"precision": precision}))
    assert trainer.numerics()["fused"] is True  # whose kernel has to obey the flag
    steps(trainer, 3)
    before = kept(trainer)
    record = poisoned_step(trainer, gradient=gradient)
    assert record.finite is False
    after = kept(trainer)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    (again,) = steps(trainer, 1)
    assert again.finite
    assert not torch.equal(kept(trainer)["model.tokens.weight"], before["model.tokens.weight"])


def waits(trainer: Trainer) -> int:
    """Train a step; return how often the processor waited for the GPU meanwhile."""
    on_gpu = trainer.context.device.type == "cuda"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        steps(trainer, 1)
        if on_gpu:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in seen)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_of_many_passes_waits_no_oftener_than_one_of_a_single_pass(
    on_device: Configure, trainer_on: TrainerOn, kind: str
) -> None:
    found = []
    for size in (64, 512):
        tables = {"pacing": {"kind": "constant"}, "optimizer": {"kind": kind}}
        trainer = trainer_on(on_device(**tables, batch={"micro_tokens": size}))
        steps(trainer, 2)  # the first one allocates moments
        found.append(waits(trainer))
    many, single = found
    assert many == single <= 3  # inputs and targets go there, a line of figures comes back
