"""Compiled runs: few graphs, all of them before the first step, and nothing else that differs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import name_of
from lengthen.model.gpt import GPT
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training import trainer as trainer_module
from lengthen.training.start import resume, train
from lengthen.training.trainer import Trainer
from lengthen.training.warm import no_more_graphs, representatives, warm
from tests.conftest import AskFor, Configure, trainer_of
from tests.ranks import commands, finish
from tests.training.test_resume import digest, lines_of, look

pytestmark = pytest.mark.filterwarnings("default")  # torch's compiler warns of its own insides

PACINGS: dict[str, dict[str, Any]] = {
    "linear": {},
    "doubling": {"pacing": {"kind": "doubling", "start": 8, "duration": 9}},
    "adaptive": {"pacing": {"kind": "adaptive", "every": 1, "max_hold": 3}},
    "rows": {"pacing": {"of": "rows", "start": 1}},
    "from one token on": {"pacing": {"kind": "linear", "start": 1, "multiple": 1}},
    "lengths as large as the width": {"model": {"width": 64, "heads": 8}},
    "rotary positions that spread": {
        "model": {"positions": "rope", "positions_start": "spread"},
        "pacing": {"kind": "doubling"},
    },
    "masked pieces": {"data": {"documents": "mask"}},
    "dropout": {"model": {"dropout": 0.2}},
    "recomputed layers": {"run": {"recompute": True}},
}
COMPILED = {"run": {"compile": "on"}}


def compile_without_code(model: GPT) -> None:
    """Compile as `compile_blocks` does, but for the code: graphs alone are quick to make."""
    for block in model.blocks:
        block.compile(dynamic=True, backend="aot_eager")


@pytest.fixture
def graphs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make graphs and no code of them."""
    monkeypatch.setattr(trainer_module, "compile_blocks", compile_without_code)


def compiled(configured: Configure, **tables: dict[str, Any]) -> Trainer:
    run = {**tables.get("run", {}), "compile": "on"}
    return trainer_of(configured(**{**tables, "run": run}))


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("graphs_alone")
@pytest.mark.parametrize("name", PACINGS)
def test_every_graph_of_a_run_is_made_before_its_first_step(
    configured: Configure, name: str
) -> None:
    counters.clear()
    trainer = compiled(configured, **PACINGS[name])
    assert warm(trainer) > 0
    made = graphs()
    assert 2 <= made <= 6  # of training and of evaluating; of one row or token apart from more
    with torch.compiler.set_stance("fail_on_recompile"):
        while trainer.step() is not None:
            look(trainer)
        trainer.evaluate()
        trainer.probe()
    assert trainer.train_state.counters.step > 12
    assert graphs() == made


@pytest.mark.usefixtures("graphs_alone")
def test_a_linear_warmup_has_one_graph_for_training_and_one_for_evaluating(
    configured: Configure,
) -> None:
    counters.clear()
    warm(compiled(configured))
    assert graphs() == 2


@pytest.mark.usefixtures("graphs_alone")
@pytest.mark.parametrize("tables", [{}, {"model": {"dropout": 0.2}}], ids=["plain", "dropout"])
def test_warming_changes_neither_weights_nor_moments_nor_random_numbers(
    configured: Configure, tables: dict[str, Any]
) -> None:
    trainer, other = (compiled(configured, **tables) for _ in range(2))
    for each in (trainer, other):
        each.step()
    before, random = digest(trainer), torch.get_rng_state()
    warm(trainer)
    assert torch.equal(torch.get_rng_state(), random)
    assert digest(trainer) == before
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert trainer.module.training
    for _ in range(3):
        ours, theirs = trainer.step(), other.step()
        assert ours is not None
        assert theirs is not None
        assert ours.loss == theirs.loss
    assert digest(trainer) == digest(other)


def test_what_is_not_compiled_is_not_warmed(configured: Configure) -> None:
    trainer = trainer_of(configured())
    assert warm(trainer) == 0.0
    with no_more_graphs(trainer):
        assert trainer.step() is not None


def test_no_two_sizes_that_stand_for_others_are_equal(configured: Configure) -> None:
    trainer = trainer_of(configured())  # of 16 wide, 2 heads of 8
    found = representatives(trainer, {(1, 1), (1, 16), (64, 64), (2, 8), (8, 16)})
    assert sorted(found) == [(1, 1), (1, 15), (2, 8), (3, 64)]


@pytest.mark.usefixtures("graphs_alone")
def test_a_resumed_run_is_compiled_anew_and_equal_to_the_last_bit(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    train(configured(run={"compile": "on", "precision": "bf16"}), unbroken)
    said = capsys.readouterr().err
    assert "compile on" in said
    assert " s, which are none of the run's" in said
    shutil.copytree(unbroken, run)
    resume(run, checkpoint=name_of(6), quiet=True)
    assert lines_of(run, "step") == lines_of(unbroken, "step")


@pytest.mark.usefixtures("graphs_alone")
def test_the_seconds_of_compiling_are_none_of_the_run(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lengthen.training import start

    seconds: list[float] = []
    monkeypatch.setattr(start, "warm", lambda trainer: seconds.append(warm(trainer)))
    summary = train(configured(budget={"tokens": 600}, **COMPILED), tmp_path / "run", quiet=True)
    assert seconds[0] > 0
    assert summary.seconds < seconds[0]


@pytest.mark.usefixtures("graphs_alone")
def test_f35_out_of_memory_at_the_first_full_step_halves_and_goes_on_compiled_or_not(
    configured: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    config = configured(run={"compile": "on", "precision": "fp64"})
    train(config, tmp_path / "enough", quiet=True)
    steps = read_metrics(tmp_path / "enough/metrics.jsonl").steps
    full = next(one.step for one in steps if one.length == 64)
    # Twice: to one row, for which there is no graph.
    ask_for(f"step:{full}-{full + 1}:oom")
    made = graphs()
    summary = train(config, tmp_path / "short", quiet=True)
    assert graphs() - made == 2
    metrics = read_metrics(tmp_path / "short/metrics.jsonl")
    lowered = [e.facts["micro_tokens"] for e in metrics.events if e.name == "micro_tokens_lowered"]
    assert lowered == [64]
    assert [one.loss for one in metrics.steps] == pytest.approx(
        [one.loss for one in steps], rel=1e-9
    )
    assert summary.tokens >= 9_900


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["linear", "doubling"])
def test_a_compiled_run_that_is_killed_comes_to_the_same_bits(
    configured: Configure, tmp_path: Path, precision: str, kind: str
) -> None:
    config = configured(
        run={"compile": "on", "precision": precision}, pacing={"kind": kind, "start": 8}
    )
    file, run, unbroken = tmp_path / "one.toml", tmp_path / "run", tmp_path / "unbroken"
    file.write_text(config.to_toml(), encoding="utf-8")
    command = ["train", str(file), "--quiet", "--out"]
    finish(commands([*command, str(unbroken)]))
    (killed,) = commands([*command, str(run)], first="step:7:kill")
    killed.communicate()
    assert killed.returncode < 0
    finish(commands(["resume", str(run), "--quiet"]))
    for record in ("step", "eval", "probe"):
        assert lines_of(run, record) == lines_of(unbroken, record)
    ours, theirs = (checkpoint.load_newest(RunPaths(one).checkpoints)[0] for one in (run, unbroken))
    for group, tensors in ours.tensors.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, theirs.tensors[group][key])
