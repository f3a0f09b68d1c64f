"""The largest logit and the updates are what their definitions say, and change no training."""

import math
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import profile

from lengthen.config.schema import Config
from lengthen.model import parts
from lengthen.model.gpt import GPT
from lengthen.model.parts import Block, largest_logit, rotated, rotation_at
from lengthen.run.records import StepRecord, to_json
from lengthen.training.trainer import Trainer
from tests.conftest import Configure, trainer_of
from tests.ranks import joined_trainer, results

MEASURES = ("largest_logit", "update_rms_decayed", "update_rms_undecayed")


def watched(configured: Configure, **tables: dict[str, Any]) -> Config:
    base: dict[str, dict[str, Any]] = {
        "model": {"layers": 2, "init_std": 0.3},
        "monitor": {"every_steps": 3, "layer": 1},
        "optimizer": {"betas": [0.9, 0.999], "weight_decay": 0.1},
    }
    return configured(
        **{name: {**base.get(name, {}), **tables.get(name, {})} for name in {**base, **tables}}
    )


def plain_largest(trainer: Trainer) -> float:
    """The largest logit of the step that follows, in float64, from whole matrices."""
    now = trainer.train_state
    step = trainer.inputs.stream.after(
        trainer.inputs.stream.start.__class__(now.counters, now.ledger)
    )
    assert step is not None
    rows = trainer.inputs.loader.load(step.blocks, step.plan.length, range(step.plan.rows))
    model, read = deepcopy(trainer.model).double(), []
    block = model.blocks[1]
    assert isinstance(block, Block)
    block.attention.register_forward_pre_hook(lambda _m, inputs: read.append(inputs[0]))
    model.hidden(rows.inputs)
    query, key, _ = block.attention.qkv(read[0]).chunk(3, dim=-1)
    found = []
    for row in range(len(rows.inputs)):
        for head in range(2):
            q, k = (part[row, :, head * 8 : head * 8 + 8] for part in (query, key))
            if block.attention.query_norm and block.attention.key_norm:
                q, k = block.attention.query_norm(q), block.attention.key_norm(k)
            if model.positions is None:
                turn = rotation_at(torch.arange(len(q))[None], 8, 10_000.0, torch.float64)
                q, k = (rotated(part[None, None], turn)[0, 0] for part in (q, k))
            logits = q @ k.T / math.sqrt(8)
            found.append(logits[torch.ones_like(logits).tril().bool()].max())
    return torch.stack(found).max().item()


@pytest.mark.parametrize("model", [{}, {"positions": "rope", "qk_norm": True}])
def test_the_largest_logit_is_that_of_whole_matrices_in_float64(
    configured: Configure, model: dict[str, Any]
) -> None:
    trainer = trainer_of(watched(configured, model=model))
    for number in range(1, 10):
        expected = plain_largest(trainer)
        record = trainer.step()
        assert record is not None
        assert trainer.model.watched is None  # an evaluation looks at no logits
        if number % 3:
            assert not set(MEASURES) & set(to_json(record))
        else:
            assert record.largest_logit == pytest.approx(expected, rel=1e-5)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("half_life", [None, 2000])
def test_update_rms_is_what_the_weights_moved_by(
    configured: Configure, half_life: int | None
) -> None:
    adam = {} if half_life is None else {"beta2_half_life": half_life}
    alone: dict[str, Any] = {"run": {"precision": "fp64"}, "monitor": {"every_steps": 1}}
    config = watched(configured, **alone, optimizer=adam)
    trainer, decay = trainer_of(config), config.optimizer.weight_decay
    for _ in range(6):
        before = weights(trainer)
        record = trainer.step()
        assert record is not None
        rate, after = record.lr or 0.0, weights(trainer)
        moved: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, old in before.items():
            decays = old.dim() == 2 and name != "positions.weight"
            kept = old * (1 - rate * decay) if decays else old
            moved[decays].append(((kept - after[name]) / rate).flatten())
        for decays, measured in (
            (True, record.update_rms_decayed),
            (False, record.update_rms_undecayed),
        ):
            expected = torch.cat(moved[decays]).square().mean().sqrt().item()
            assert measured == pytest.approx(expected, rel=1e-5)


def test_update_rms_in_float32_is_that_of_the_moments_in_float64(configured: Configure) -> None:
    trainer = trainer_of(watched(configured, monitor={"every_steps": 1}))
    for number in range(1, 5):
        record = trainer.step()
        assert record is not None
        for group, name in zip(trainer.optimizer.param_groups, MEASURES[1:], strict=True):
            states = [trainer.optimizer.state[parameter] for parameter in group["params"]]
            first = torch.cat([s["exp_avg"].double().flatten() for s in states]) / (1 - 0.9**number)
            second = torch.cat([s["exp_avg_sq"].double().flatten() for s in states])
            updates = first / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
            expected = updates.square().mean().sqrt().item()
            assert getattr(record, name) == pytest.approx(expected, rel=1e-5)


def test_what_is_not_finite_has_no_update(configured: Configure) -> None:
    trainer = trainer_of(watched(configured, monitor={"every_steps": 1}))
    trainer.step()
    trainer.model.register_forward_hook(lambda _m, _i, loss: loss * torch.nan)
    record = trainer.step()
    assert record is not None
    assert record.largest_logit is not None
    assert record.update_rms_decayed is None


@given(
    rows=st.integers(1, 3),
    heads=st.integers(1, 3),
    length=st.integers(1, 40),
    block=st.integers(1, 12),
    at_once=st.integers(1, 500),
)
def test_blocks_look_at_every_causal_pair_and_at_no_other(
    rows: int, heads: int, length: int, block: int, at_once: int
) -> None:
    generator = torch.Generator().manual_seed(length)
    query, key = (torch.randn(rows, heads, length, 4, generator=generator) for _ in range(2))
    logits = (query @ key.mT / 2).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "BLOCK", block)
        patch.setattr(parts, "LOGITS", at_once)
        assert largest_logit(query, key).item() == pytest.approx(logits.max().item(), rel=1e-5)


def test_no_matrix_of_all_pairs_is_made_of_a_long_row() -> None:
    query = torch.randn(2, 2, 8192, 2, generator=torch.Generator().manual_seed(0))
    with profile(profile_memory=True) as profiled:
        largest_logit(query, query)
    taken = max(event.cpu_memory_usage for event in profiled.events() or [])
    assert 0 < taken <= 4 * parts.LOGITS < 8192**2 / 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_that_is_watched_trains_the_same_bits(configured: Configure, precision: str) -> None:
    ways = [{"every_steps": 1, "layer": layer} for layer in (0, 1)] + [{"every_steps": 0}]
    trainers = [
        trainer_of(watched(configured, monitor=way, run={"precision": precision})) for way in ways
    ]
    for trainer in trainers:
        for _ in range(4):
            trainer.step()
    *ours, theirs = (weights(trainer) for trainer in trainers)
    assert all(torch.equal(one[name], tensor) for one in ours for name, tensor in theirs.items())


@pytest.mark.ranks
@pytest.mark.parametrize(("ranks", "sharded"), [(2, True), (3, False)])
def test_any_number_of_ranks_measures_the_same(
    configured: Configure, ranks: int, sharded: bool
) -> None:
    # From one row on: a rank that has none looks at no logit of its blank row.
    config = watched(
        configured,
        run={"precision": "fp64", "sharded": sharded},
        monitor={"every_steps": 1},
        pacing={"of": "rows", "start": 1, "duration": 3},
        batch={"rows": 7, "micro_tokens": 64},
    )

    def spoiled(model: torch.nn.Module, inputs: tuple[Any, ...], _loss: Tensor) -> None:
        if not inputs[0].any():  # a blank row: no text has a token 0
            assert isinstance(model, GPT)
            model.largest_logit = torch.tensor(1e9, dtype=torch.float64)

    def measured() -> list[list[float]]:
        with joined_trainer(config) as trainer:
            trainer.model.register_forward_hook(spoiled)
            return [measures_of(trainer.step()) for _ in range(4)]

    alone = trainer_of(config)
    expected = [measures_of(alone.step()) for _ in range(4)]
    for of_rank in results(*[partial(measured)] * ranks):
        for ours, theirs in zip(of_rank, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9)


def measures_of(record: StepRecord | None) -> list[float]:
    return [getattr(record, name) for name in MEASURES]
