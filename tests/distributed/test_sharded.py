"""Weights and moments over several processes: the same run as on one, and on any number of them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lengthen.checkpoint import read as checkpoint
from lengthen.cli.main import main
from lengthen.config.schema import Config
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.run.records import EvalRecord, ProbeRecord, StepRecord
from lengthen.training.start import train
from tests.conftest import Configure
from tests.ranks import Rank, commands, finish

pytestmark = pytest.mark.ranks

MONITOR = ("grad_norm", "variance_norm", "variance_max", "loss_ratio")
LONG = 104_000  # tokens: 200 steps and some
EXACT = ("step", "tokens", "length", "rows", "lr", "joined")


def torchrun(
    world_size: int, *words: str, before: tuple[str, ...] = (), **options: Any
) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *before]
    command = [*launcher, "--nproc-per-node", str(world_size), "-m", "lengthen", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=env, **{**pipes, **options})


def finished(process: "subprocess.Popen[str]") -> None:
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors


def written(config: Config, path: Path, **run: object) -> str:
    tables = config.model_copy(update={"run": config.run.model_copy(update=run)})
    path.write_text(tables.to_toml(), encoding="utf-8")
    return str(path)


def steps(run: Path) -> list[StepRecord]:
    return read_metrics(RunPaths(run).metrics).steps


def ledger(run: Path) -> object:
    return checkpoint.load_newest(RunPaths(run).checkpoints)[0].state["ledger"]


def same(ours: list[StepRecord], theirs: list[StepRecord], loss: float, monitor: float) -> None:
    assert ours
    for mine, other in zip(ours, theirs, strict=True):
        assert [getattr(mine, name) for name in EXACT] == [getattr(other, name) for name in EXACT]
        assert mine.loss == pytest.approx(other.loss, rel=loss)
        for name in MONITOR:
            ours_, theirs_ = (getattr(one, name) or 0 for one in (mine, other))
            assert ours_ == pytest.approx(theirs_, rel=monitor)


@pytest.mark.parametrize(
    ("world_size", "sharded", "recompute", "tokens"),
    [
        (2, True, True, 14_000),
        pytest.param(2, False, False, LONG, marks=pytest.mark.slow),
        pytest.param(2, False, True, LONG, marks=pytest.mark.slow),
        pytest.param(2, True, False, LONG, marks=pytest.mark.slow),
        pytest.param(4, True, False, LONG, marks=pytest.mark.slow),
    ],
)
def test_the_same_run_on_several_processes(
    configured: Configure,
    tmp_path: Path,
    world_size: int,
    sharded: bool,
    recompute: bool,
    tokens: int,
) -> None:
    # The clock by tokens too where it is quick: every rank must come to the same beta2 and rate.
    clock = {} if tokens == LONG else {"beta2_half_life": 3000, "rate_by_tokens": "sqrt"}
    run, saving = {"precision": "fp64"}, {"every_steps": 0}
    config = configured(budget={"tokens": tokens}, run=run, saving=saving, optimizer=clock)
    train(config, tmp_path / "one", quiet=True)
    file = written(config, tmp_path / "config.toml", sharded=sharded, recompute=recompute)
    words = ["train", file, "--quiet", "--out", str(tmp_path / "many")]
    finish(commands(*[words] * world_size))
    same(steps(tmp_path / "many"), steps(tmp_path / "one"), 1e-9, 1e-6)
    assert len(steps(tmp_path / "one")) >= (200 if tokens == LONG else 30)
    assert ledger(tmp_path / "many") == ledger(tmp_path / "one")
    for kind in (EvalRecord, ProbeRecord):
        logs = [
            read_metrics(RunPaths(tmp_path / name).metrics).of(kind) for name in ("one", "many")
        ]
        for mine, other in zip(*logs, strict=True):
            assert mine.loss == pytest.approx(other.loss, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_recomputed_layers_drop_what_they_dropped_before(
    configured: Configure, tmp_path: Path, sharded: bool
) -> None:
    config = configured(budget={"tokens": 8_000}, model={"dropout": 0.2})
    for recompute in (False, True):
        out = tmp_path / f"{recompute}"
        file = written(config, tmp_path / "config.toml", sharded=sharded, recompute=recompute)
        finish(commands(*[["train", file, "--quiet", "--out", str(out)]] * 2))
    same(steps(tmp_path / "True"), steps(tmp_path / "False"), 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "sharded"), [(2, False), (2, True), (4, True)])
def test_twenty_steps_of_single_precision(
    configured: Configure, tmp_path: Path, world_size: int, sharded: bool
) -> None:
    config = configured(budget={"tokens": 8_000}, saving={"every_steps": 0})
    train(config, tmp_path / "one", quiet=True)
    file = written(config, tmp_path / "config.toml", sharded=sharded)
    words = ["train", file, "--quiet", "--out", str(tmp_path / "many")]
    finish(commands(*[words] * world_size))
    one, many = steps(tmp_path / "one")[:20], steps(tmp_path / "many")[:20]
    assert len(one) == 20
    same(many, one, 1e-5, 1e-4)


def on_one_and_on_three(config: Config, folder: Path) -> None:
    """Train in one process, and sharded in three: the runs `one` and `three`."""
    train(config, folder / "one", quiet=True)
    file = written(config, folder / "config.toml", sharded=True)
    finish(commands(*[["train", file, "--quiet", "--out", str(folder / "three")]] * 3))


def test_a_sharded_checkpoint_is_one_of_the_same_run(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(
        # Three processes: width 16 leaves uneven shards, heads of a length 64 model even ones.
        budget={"tokens": 4_000},
        run={"precision": "fp64"},
        saving={"every_steps": 0},
    )
    on_one_and_on_three(config, tmp_path)
    folders = [RunPaths(tmp_path / name).checkpoints for name in ("one", "three")]
    alone, shared = (checkpoint.load_newest(folder)[0] for folder in folders)
    files = sorted(path.name for path in shared.path.glob("*.safetensors"))
    assert files == [
        f"{group}-r0000{rank}-of-00003.safetensors"
        for group in ("model", "optimizer")
        for rank in range(3)
    ]
    for group, tensors in alone.tensors.items():
        assert set(tensors) == set(shared.tensors[group])
        for name, tensor in tensors.items():
            torch.testing.assert_close(shared.tensors[group][name], tensor, rtol=1e-9, atol=1e-12)
    assert main(["verify", str(tmp_path / "three")]) == 0
    assert main(["sample", str(tmp_path / "three"), "--tokens", "5"]) == 0
    capsys.readouterr()


def killed(ranks: list[Rank], run: Path, after: int) -> None:
    """Kill all ranks, once after a step."""
    begun = time.monotonic()
    while not RunPaths(run).metrics.exists() or len(steps(run)) <= after:
        assert ranks[0].poll() is None, ranks[0].communicate()[1]
        assert time.monotonic() < begun + 120
        time.sleep(0.02)
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.communicate()


def test_f25_a_run_moves_between_any_numbers_of_processes_with_kills_between(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(
        budget={"tokens": 14_000}, run={"precision": "fp64"}, saving={"every_steps": 3}
    )
    train(config, tmp_path / "unbroken", quiet=True)
    run = tmp_path / "run"
    file = written(config, tmp_path / "config.toml", sharded=True)
    words = ["train", file, "--quiet", "--resume", "auto", "--out", str(run)]
    killed(commands(words), run, 4)
    killed(commands(words, words), run, 14)
    finish(commands(words))
    same(steps(run), steps(tmp_path / "unbroken"), 1e-9, 1e-6)
    assert ledger(run) == ledger(tmp_path / "unbroken")
    worlds = [line for line in read_metrics(RunPaths(run).metrics).events if "text" in line.facts]
    assert any("world_size was 1, is 2" in line.facts["text"] for line in worlds)
    assert any("world_size was 2, is 1" in line.facts["text"] for line in worlds)


def test_f31_a_rank_that_holds_nothing_of_a_weight_trains_and_saves_with_the_others(
    configured: Configure, tmp_path: Path
) -> None:
    # Two rows cut for three ranks: the last one has none of most weights.
    config = configured(
        model={"width": 2, "heads": 1},
        budget={"tokens": 2_000},
        run={"precision": "fp64"},
        saving={"every_steps": 4},
    )
    on_one_and_on_three(config, tmp_path)
    same(steps(tmp_path / "three"), steps(tmp_path / "one"), 1e-9, 1e-6)
    folders = [RunPaths(tmp_path / name).checkpoints for name in ("one", "three")]
    alone, shared = (checkpoint.load_newest(folder)[0] for folder in folders)
    parts = [load_file(path) for path in shared.path.glob("model-r00002-*.safetensors")]
    assert any(not tensor.numel() for tensor in parts[0].values())
    for name, tensor in alone.tensors["model"].items():
        torch.testing.assert_close(shared.tensors["model"][name], tensor, rtol=1e-9, atol=1e-12)
