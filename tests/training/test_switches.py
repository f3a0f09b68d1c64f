"""Every switch of the model trains alike in any micro-batches, on any ranks, sharded or not."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.checkpoint import read as checkpoint
from lengthen.cli.main import main
from lengthen.config.load import with_overrides
from lengthen.config.schema import Config
from lengthen.run.directory import RunPaths
from lengthen.training.start import train
from tests.conftest import Configure, trainer_of
from tests.ranks import commands, finish

LLAMA: dict[str, Any] = {
    "positions": "rope",
    "norm": "rms",
    "mlp": "swiglu",
    "mlp_width": 43,
    "tied": False,
    "bias": False,
    "kv_heads": 1,
}
# Of the second step's rows all are joined: step 1 leaves 40 tokens of each sequence.
DOCUMENTS: dict[str, dict[str, Any]] = {
    "data": {"documents": "mask"},
    "pacing": {"values": [24, 48, 64]},
    "batch": {"reuse_after": 1},
    "budget": {"tokens": 7 * (24 + 48 + 64)},
}
SWITCHES: dict[str, dict[str, dict[str, Any]]] = {
    "rope": {"model": {"positions": "rope"}},
    "spread": {"model": {"positions_start": "spread"}},
    "qk_norm": {"model": {"qk_norm": True}},
    "z_loss": {"model": {"z_loss": 0.01}},
    "documents": DOCUMENTS,
    "rms": {"model": {"norm": "rms"}},
    "no bias": {"model": {"bias": False}},
    "untied": {"model": {"tied": False}},
    "kv_heads": {"model": {"kv_heads": 1}},
    "swiglu": {"model": {"mlp": "swiglu", "mlp_width": 43}},
    "qwen": {"model": {**LLAMA, "qk_norm": True, "head_width": 12}},
    "muon": {"optimizer": {"kind": "muon"}},
    "muon of all": {
        **DOCUMENTS,
        "optimizer": {"kind": "muon"},
        "model": {**LLAMA, "qk_norm": True},
    },
}
# With beta1 = 0 Adam's first moment is the last gradient itself. Lengths 16, 32, 64; rows 7 are
# uneven on every number of ranks.
BASE: dict[str, dict[str, Any]] = {
    "optimizer": {"betas": [0.0, 0.9], "clip": 0.0, "warmup_steps": 0},
    "run": {"precision": "fp64"},
    "pacing": {"kind": "staged", "values": [16, 32, 64], "boundaries": [1, 2]},
    "batch": {"rows": 7, "micro_tokens": 64},
    "budget": {"tokens": 7 * (16 + 32 + 64)},
    "saving": {"every_steps": 0},
    "evaluation": {"every_steps": 0, "probe_every_steps": 2},
}


def written(configured: Configure, name: str, **tables: dict[str, Any]) -> Config:
    switch = {table: {**BASE.get(table, {}), **own} for table, own in SWITCHES[name].items()}
    return with_overrides(configured(**{**BASE, **switch}), tables)


def trained(config: Config, run: Path, ranks: int = 1) -> dict[str, torch.Tensor]:
    """Train on so many ranks; return all weights and moments at the end."""
    if ranks == 1:
        train(config, run, quiet=True)
    else:
        run.with_suffix(".toml").write_text(config.to_toml(), encoding="utf-8")
        words = ["train", str(run.with_suffix(".toml")), "--quiet", "--out", str(run)]
        finish(commands(*[words] * ranks))
    saved, _ = checkpoint.load_newest(RunPaths(run).checkpoints)
    assert saved.step == 3
    return {f"{g}.{n}": t for g, tensors in saved.tensors.items() for n, t in tensors.items()}


@pytest.mark.ranks
@pytest.mark.parametrize("name", SWITCHES)
def test_no_split_and_no_number_of_ranks_changes_weights_or_gradients(
    configured: Configure, tmp_path: Path, name: str
) -> None:
    on = partial(written, configured, name)
    whole = trained(on(batch={"micro_tokens": 512}), tmp_path / "whole")
    runs = {
        "split": trained(on(), tmp_path / "split"),
        "two": trained(on(), tmp_path / "two", 2),
        "three": trained(on(run={"sharded": "muon" not in name}), tmp_path / "three", 3),
    }
    for how, tensors in runs.items():
        for key, tensor in whole.items():
            error = (tensors[key] - tensor).abs().max()
            assert error <= 1e-10 * tensor.abs().max(), (how, key)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_run_is_verified_evaluated_and_sampled(
    configured: Configure, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(written(configured, name), tmp_path / "run", quiet=True)
    run = str(tmp_path / "run")
    assert main(["verify", run]) == 0
    assert main(["sample", run, "--tokens", "90", "--seed", "1"]) == 0  # beyond the full length
    assert main(["eval", run, "--tasks", "valid", "--limit", "2"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("name", SWITCHES)
def test_a_recomputed_step_is_the_same(configured: Configure, name: str) -> None:
    trainers = [
        trainer_of(written(configured, name, run={"recompute": recompute}))
        for recompute in (False, True)
    ]
    for trainer in trainers:
        while trainer.step():
            pass
    ours, theirs = (trainer.tensors()["model"] for trainer in trainers)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def losses(config: Config) -> tuple[list[float], list[float]]:
    """Return the losses of the steps and of a probe before each."""
    steps: list[float] = []
    probes: list[float] = []
    trainer = trainer_of(config)
    while True:
        probe, record = trainer.probe(), trainer.step()
        assert probe is not None
        probes.append(probe.loss or 0.0)
        if record is None:
            return steps, probes
        steps.append(record.loss or 0.0)


def test_spread_starts_train_the_whole_table_from_the_first_step_on(configured: Configure) -> None:
    untrained = trainer_of(written(configured, "spread")).model.positions
    for name, rows in (("spread", 64), ("qk_norm", 16)):
        trainer = trainer_of(written(configured, name))
        trainer.step()
        table = trainer.model.positions
        assert table is not None
        assert untrained is not None
        assert int((table.weight != untrained.weight).any(dim=1).sum()) == rows


def test_evaluations_start_at_zero(configured: Configure) -> None:
    zero = written(configured, "spread", model={"positions_start": "zero"})
    (spread_steps, spread), (zero_steps, probes) = (
        losses(written(configured, "spread")),
        losses(zero),
    )
    assert spread[0] == probes[0]
    assert spread_steps[0] != zero_steps[0]


def test_spread_starts_leave_the_losses_of_rotary_positions_unchanged(
    configured: Configure,
) -> None:
    spread = losses(written(configured, "rope", model={"positions_start": "spread"}))
    for ours, theirs in zip(spread, losses(written(configured, "rope")), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-10)
