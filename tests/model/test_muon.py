"""Muon as a run uses it: which matrices it has, that it is torch's own, and what a flag stops."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lengthen.config.load import build, merge
from lengthen.config.model import Model
from lengthen.config.schema import Config, Optimizer
from lengthen.core.schedule import StepPlan
from lengthen.distributed.memory import memory_of
from lengthen.distributed.per_rank import load
from lengthen.model import cost
from lengthen.model.gpt import GPT
from lengthen.model.muon import Muon, hidden_matrices
from lengthen.model.optim import (
    AdamW,
    build_optimizer,
    parameter_groups,
    second_moment_scale,
    set_rate,
    set_step,
    update,
    update_rms,
)
from lengthen.util.errors import SettingError
from tests.conftest import Configure, trainer_of
from tests.model.test_optim import NO, YES, give_gradients

SHAPE: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "length": 8, "vocabulary": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "today's": {"positions": "rope", "qk_norm": True, "norm": "rms", "bias": False},
}


def model_and_optimizer(**settings: Any) -> tuple[GPT, AdamW]:
    given = {"learning_rate": 1e-2, "kind": "muon", "weight_decay": 0.1, **settings}
    model = GPT(Model(**SHAPE))
    model.initialise(torch.Generator().manual_seed(0))
    return model, build_optimizer(model, Optimizer(**given))


def weights_and_momenta(model: GPT, optimizer: AdamW) -> list[Tensor]:
    states = [muon.state[matrix] for matrix, muon in optimizer.muons.items()]
    tensors = [*model.parameters(), *(state["momentum_buffer"] for state in states)]
    return [tensor.detach().clone() for tensor in tensors]


@pytest.mark.parametrize("name", SHAPES)
def test_muon_has_every_matrix_inside_the_layers_and_adamw_all_else(name: str) -> None:
    model = GPT(Model(**{**SHAPE, **SHAPES[name]}))
    optimizer = build_optimizer(model, Optimizer(learning_rate=1.0, kind="muon"))
    adamw = [p for group in optimizer.param_groups for p in group["params"]]
    for name, parameter in model.named_parameters():
        inside = name.startswith("blocks.") and parameter.dim() == 2
        assert (parameter in optimizer.muons) is inside
        assert sum(one is parameter for one in adamw) == (not inside)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {muon.param_groups[0]["weight_decay"] for muon in optimizer.muons.values()} == {0.1}
    assert sum(matrix.numel() for matrix in optimizer.muons) == cost.matrices(model.shape)


@settings(max_examples=20)
@given(
    rates=st.lists(st.floats(1e-6, 0.1), min_size=1, max_size=4),
    decay=st.sampled_from([0.0, 0.1]),
    half_life=st.sampled_from([None, 3000]),
)
def test_a_step_is_that_of_torchs_own_muon_and_adamw_to_the_last_bit(
    rates: list[float], decay: float, half_life: int | None
) -> None:
    asked = Optimizer(learning_rate=1.0, kind="muon", weight_decay=decay, beta2_half_life=half_life)
    model, optimizer = model_and_optimizer(weight_decay=decay, beta2_half_life=half_life)
    plain, _ = model_and_optimizer()
    matrices = hidden_matrices(plain)
    muon: torch.optim.Optimizer = torch.optim.Muon(
        matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
    )
    groups = parameter_groups(plain, decay, decay_positions=False, without=matrices)
    adamw = AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for number, rate in enumerate(rates, start=1):
        step = StepPlan(1, 700 * number, rate)
        trained = 700 * number * (number + 1) // 2
        give_gradients(model, number)
        give_gradients(plain, number)
        set_step(optimizer, asked, step, trained, number)
        set_step(adamw, asked, step, trained, number)
        muon.param_groups[0]["lr"] = rate
        update(optimizer, YES)
        update(adamw, YES)
        muon.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("updates", [0, 2])
def test_an_update_that_is_not_finite_touches_no_matrix_and_no_momentum(
    updates: int, poison: float
) -> None:
    model, optimizer = model_and_optimizer()
    set_rate(optimizer, 1e-2)
    for seed in range(updates):
        give_gradients(model, seed)
        update(optimizer, YES)
    before = weights_and_momenta(model, optimizer)
    give_gradients(model, seed=9)
    for matrix in optimizer.muons:
        matrix.grad = torch.full_like(matrix, poison)
    update(optimizer, NO)
    after = weights_and_momenta(model, optimizer)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    give_gradients(model)
    update(optimizer, YES)
    after = weights_and_momenta(model, optimizer)
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_host_reads_nothing_back_in_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = model_and_optimizer()
    set_rate(optimizer, 1e-2)
    give_gradients(model)
    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, name, lambda _: pytest.fail("waits for the device"))
    update(optimizer, YES)
    update_rms(optimizer)


@settings(max_examples=30)
@given(rows=st.integers(8, 96), columns=st.integers(8, 96), seed=st.integers(0, 99))
def test_an_update_of_any_shape_is_about_as_large_as_adamws(
    rows: int, columns: int, seed: int
) -> None:
    drawn = torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed))
    matrix = nn.Parameter(torch.zeros(rows, columns, dtype=torch.float64))
    muon = Muon(matrix, 0.1)
    muon.param_groups[0]["lr"] = 1e-3
    matrix.grad = drawn.double()
    muon.update(YES)
    rms = (muon.square / matrix.numel()).sqrt().item()
    assert rms == pytest.approx(matrix.square().mean().sqrt().item() / 1e-3, rel=1e-9)
    # Singular values between 0.7 and 1.2 (Jordan et al.), those of a square matrix also smaller.
    assert 0.1 < rms < 0.25


def test_the_update_rms_of_muon_is_what_the_matrices_moved_by(configured: Configure) -> None:
    config = configured(
        optimizer={"kind": "muon"}, run={"precision": "fp64"}, monitor={"every_steps": 2}
    )
    trainer = trainer_of(config)
    for number in range(1, 7):
        before = {matrix: matrix.detach().clone() for matrix in trainer.optimizer.muons}
        record = trainer.step()
        assert record is not None
        assert record.lr is not None
        kept = 1 - record.lr * config.optimizer.weight_decay
        moved = [(matrix - kept * old).flatten() / record.lr for matrix, old in before.items()]
        expected = torch.cat(moved).square().mean().sqrt().item()
        if number % 2:
            assert record.update_rms_muon is record.update_rms_decayed is None
        else:
            assert record.update_rms_muon == pytest.approx(expected, rel=1e-9)
            assert record.update_rms_decayed is not None
        roots = [s["exp_avg_sq"].sqrt().sum().item() for s in trainer.optimizer.state.values()]
        assert record.variance_norm == pytest.approx(sum(roots))


def test_without_a_rate_muon_has_no_update_rms(configured: Configure) -> None:
    """An earlier step's number would stand there, and not after a resume."""
    optimizer = {"kind": "muon", "warmup_steps": 0, "decay_tokens": 1024, "min_learning_rate": 0}
    config = configured(
        pacing={"kind": "linear", "duration": 0}, optimizer=optimizer, monitor={"every_steps": 1}
    )
    trainer = trainer_of(config)
    records = [trainer.step() for _ in range(4)]
    measured = [one.update_rms_muon is not None for one in records if one is not None and one.lr]
    without = [one.update_rms_muon for one in records if one is not None and one.lr == 0]
    assert (measured, without) == ([True, True], [None, None])


def held(config: Config) -> Iterator[int]:
    """Yield the bytes of everything that stays between two steps, and of the gradients."""
    trainer = trainer_of(config)
    trainer.step()
    for tensors in trainer.tensors().values():
        yield from (tensor.nbytes for tensor in tensors.values() if tensor.dim())


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_a_plan_counts_no_second_moment_of_the_matrices(
    configured: Configure, precision: str
) -> None:
    adamw, muon = (
        configured(
            model={"vocabulary": 257}, optimizer={"kind": kind}, run={"precision": precision}
        )
        for kind in ("adamw", "muon")
    )
    saved = sum(held(adamw)) - sum(held(muon))
    assert saved == (8 if precision == "fp64" else 4) * cost.matrices(muon.model)
    assert memory_of(adamw, 256) - memory_of(muon, 256) == saved
    ranks = [load(one, 256, 2, sharded=False).state for one in (adamw, muon)]
    assert ranks[0] - ranks[1] == saved
    assert ranks[1] == sum(held(muon))


def test_second_moments_are_those_of_adamw_alone() -> None:
    model, optimizer = model_and_optimizer()
    give_gradients(model)
    update(optimizer, YES)
    assert not set(optimizer.state) & set(optimizer.muons)
    assert {*optimizer.state, *optimizer.muons} == {*model.parameters()}
    roots = torch.cat([s["exp_avg_sq"].sqrt().flatten() for s in optimizer.state.values()])
    assert second_moment_scale(optimizer)[0].item() == pytest.approx(roots.sum().item(), rel=1e-5)


def test_muon_is_refused_where_weights_are_cut_into_shards(configured: Configure) -> None:
    sharded = {"optimizer": {"kind": "muon"}, "run": {"sharded": True}}
    with pytest.raises(SettingError) as caught:
        configured(**sharded)
    assert str(caught.value) == (
        "optimizer.kind: must be adamw where run.sharded is true: Muon needs whole matrices, "
        "got 'muon'"
    )
    assert build(merge(configured().tables(), {"optimizer": {"kind": "muon"}})[0])
