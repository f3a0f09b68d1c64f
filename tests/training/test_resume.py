"""Exact resume, proved step by step: what is loaded from step t trains on as if never stopped.

An unbroken run stores a digest of everything after each step. For every t a new trainer loads
checkpoint t, runs one step, and must have the digest of t + 1: by induction any resume, and any
chain of resumes, is exact.
"""

import hashlib
import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import list_checkpoints, name_of
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.run.records import to_json
from lengthen.training.start import resume, train
from lengthen.training.trainer import Trainer
from lengthen.util.errors import SettingError
from tests.conftest import AskFor, Configure, in_a_child, trainer_of
from tests.ranks import commands, finish

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "linear": {},
    "root": {"pacing": {"kind": "root", "degree": 2}},
    "doubling": {"pacing": {"kind": "doubling", "start": 8, "duration": 9}},
    "staged": {"pacing": {"kind": "staged", "values": [8, 64], "boundaries": [6]}},
    "constant": {"pacing": {"kind": "constant"}},
    "adaptive": {"pacing": {"kind": "adaptive", "every": 1, "max_hold": 3}},
    "rows": {"pacing": {"of": "rows", "start": 1}},
    "held tokens": {"batch": {"hold": "tokens"}},
    "dropped leftovers": {"batch": {"leftovers": "drop"}},
    "cut in place": {
        "pacing": {"kind": "doubling", "start": 8, "duration": 9},
        "batch": {"hold": "tokens", "leftovers": "in_place"},
    },
    "clock": {"optimizer": {"beta2_half_life": 3000, "rate_by_tokens": "sqrt"}},
    "clock of paced rows": {
        "pacing": {"of": "rows", "start": 1},
        "optimizer": {"beta2_half_life": 3000, "rate_by_tokens": "sqrt"},
    },
    "muon": {"optimizer": {"kind": "muon", "beta2_half_life": 3000}},
    "muon of masked pieces and shared heads": {
        "optimizer": {"kind": "muon"},
        "data": {"documents": "mask"},
        "model": {"kv_heads": 1, "qk_norm": True, "head_width": 24, "positions": "rope"},
    },
    "linear rate": {"optimizer": {"schedule": "linear"}},
    "constant rate": {"optimizer": {"schedule": "constant", "min_learning_rate": 1e-2}},
    "wsd": {"optimizer": {"schedule": "wsd", "wsd_decay_tokens": 4000}},
    "dropout": {"model": {"dropout": 0.2}},
    "bf16": {"run": {"precision": "bf16"}},
    "rotary positions": {"model": {"positions": "rope"}},
    "cures": {"model": {"qk_norm": True, "z_loss": 0.01}},
    "masked pieces": {"data": {"documents": "mask"}},
    "rms without biases": {"model": {"norm": "rms", "bias": False}},
    "swiglu": {"model": {"mlp": "swiglu", "mlp_width": 40}},
    "a head of its own": {"model": {"tied": False}},
    "shared keys and values": {"model": {"kv_heads": 1, "positions": "rope"}},
    "spread starts": {
        "model": {"positions_start": "spread"},
        "pacing": {"kind": "doubling"},
    },
    "saved in the background": {"saving": {"asynchronous": True}},
    # 40 sequences of the tiny store's 850: a border between epochs within the run.
    "epoch border": {
        "model": {"length": 64},
        "batch": {"rows": 64, "micro_tokens": 1024},
        "budget": {"tokens": 70_000},
    },
}

# The unbroken trainer of the proof neither evaluates nor saves: that must not matter either.
ON_THE_SIDE = ("seconds", "evaluated", "probed", "probe_lowest")


def digest(trainer: Trainer) -> str:
    """SHA-256 of every weight and moment and of all other state that training depends on."""
    state = {**trainer.state_dict(), **dict.fromkeys(ON_THE_SIDE)}
    whole = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for name, group in sorted(trainer.tensors().items()):
        for key, tensor in sorted(group.items()):
            whole.update(f"{name}/{key}".encode() + tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()


def lines_of(run: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a kind without what the clock on the wall says."""
    untimed = dict.fromkeys(("seconds", "side_seconds"))
    lines = map(to_json, read_metrics(RunPaths(run).metrics).records)
    return [{**line, **untimed} for line in lines if line["kind"] == kind]


def look(trainer: Trainer) -> None:
    """Observe where an adaptive pacing wants it, as the loop does before it saves."""
    counters, schedule = trainer.train_state.counters, trainer.schedule
    if schedule.step_plan(counters) is not None and schedule.observes(counters):
        trainer.observe()


@pytest.mark.parametrize("name", CASES)
def test_every_step_from_its_checkpoint_is_the_unbroken_step(
    configured: Configure, tmp_path: Path, name: str
) -> None:
    config = configured(**CASES[name])
    train(config, tmp_path / "run", quiet=True)
    saved = list_checkpoints(RunPaths(tmp_path / "run").checkpoints)[::-1]
    unbroken = trainer_of(config)
    digests = [digest(unbroken)]
    while unbroken.step() is not None:
        look(unbroken)
        digests.append(digest(unbroken))
    assert len(saved) == len(digests) >= 14
    if name == "epoch border":
        assert unbroken.train_state.ledger.epoch == 1
    for path in saved[:-1]:
        start = checkpoint.load_step(path.parent, path.name)
        again = trainer_of(config)
        again.restore(start)
        assert digest(again) == digests[start.step]
        again.step()
        look(again)
        assert digest(again) == digests[start.step + 1]


@pytest.mark.parametrize(
    "step",
    [pytest.param(1, marks=pytest.mark.slow), 6, pytest.param(12, marks=pytest.mark.slow)],
    ids=["first step", "mid-warmup", "full length"],
)
def test_a_run_killed_twice_in_the_middle_of_a_step_comes_to_the_same_end(
    configured: Configure, tmp_path: Path, ask_for: AskFor, step: int
) -> None:
    config = configured(budget={"tokens": 14_000})
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    train(config, unbroken, quiet=True)
    shutil.copytree(unbroken, run)
    for kill in ("step:3:kill", "step:2:kill"):
        ask_for(kill)
        resumed = in_a_child(lambda: resume(run, checkpoint=name_of(step), quiet=True))
        assert resumed == -signal.SIGKILL
    ask_for("")
    resume(run, checkpoint=name_of(step), quiet=True)
    for kind in ("step", "eval", "probe"):
        assert lines_of(run, kind) == lines_of(unbroken, kind)
    ours, theirs = (checkpoint.load_newest(RunPaths(one).checkpoints)[0] for one in (run, unbroken))
    assert ours.step == theirs.step
    for group, tensors in ours.tensors.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, theirs.tensors[group][key])


@pytest.mark.usefixtures("hears_hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_f19_f21_a_signal_saves_first_and_names_the_command_that_resumes(
    configured: Configure, tmp_path: Path, number: signal.Signals
) -> None:
    config = configured(budget={"tokens": 400_000}, saving={"every_steps": 0})
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    run = tmp_path / "run"
    (process,) = commands(["train", str(file), "--out", str(run)])
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").stat().st_size < 2000:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    message = errors.strip().splitlines()[-1]
    assert message.startswith("lengthen: stopped after step")
    assert f"`lengthen resume {run}` continues" in message
    stopped = read_metrics(run / "metrics.jsonl").steps[-1].step
    assert checkpoint.load_newest(run / "checkpoints")[0].step == stopped


def test_lines_after_the_checkpoint_are_moved_to_the_discarded_ones(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(), tmp_path / "run", quiet=True)
    before = lines_of(tmp_path / "run", "step")
    resume(tmp_path / "run", checkpoint=name_of(5), quiet=True)
    assert lines_of(tmp_path / "run", "step") == before
    discarded = read_metrics(RunPaths(tmp_path / "run").discarded).steps
    assert [line.step for line in discarded] == list(range(6, len(before) + 1))
    events = read_metrics(RunPaths(tmp_path / "run").metrics).events
    assert [e.step for e in events if e.name == "resumed"] == [5]


def test_the_configuration_of_a_run_alone_reproduces_it(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(batch={"micro_tokens": "auto"}), tmp_path / "first", quiet=True)
    config = tmp_path / "first" / "config.toml"
    (process,) = commands(["train", str(config), "--out", str(tmp_path / "again"), "--quiet"])
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "validation loss" in output
    assert lines_of(tmp_path / "again", "step") == lines_of(tmp_path / "first", "step")


@pytest.mark.ranks
def test_muon_killed_on_two_ranks_comes_to_the_same_end_on_two_and_on_one_to_rounding(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(
        optimizer={"kind": "muon"}, run={"precision": "fp64"}, budget={"tokens": 5_000}
    )
    file, run, unbroken = tmp_path / "muon.toml", tmp_path / "run", tmp_path / "unbroken"
    file.write_text(config.to_toml(), encoding="utf-8")
    command = ["train", str(file), "--quiet", "--out"]
    finish(commands(*[[*command, str(unbroken)]] * 2))
    killed = commands(*[[*command, str(run)]] * 2, first="step:9:kill", last="step:9:kill")
    for rank in killed:
        rank.communicate()
    alone = shutil.copytree(run, tmp_path / "alone")
    finish(commands(*[["resume", str(run), "--quiet"]] * 2))
    resume(alone, quiet=True)
    for kind in ("step", "eval", "probe"):
        assert lines_of(run, kind) == lines_of(unbroken, kind)
    ends = [checkpoint.load_newest(RunPaths(one).checkpoints)[0] for one in (unbroken, run, alone)]
    assert {end.step for end in ends} == {len(lines_of(unbroken, "step"))}
    assert any(name.endswith("momentum_buffer") for name in ends[0].tensors["optimizer"])
    for group, tensors in ends[0].tensors.items():
        for key, tensor in tensors.items():
            assert torch.equal(ends[1].tensors[group][key], tensor)
            torch.testing.assert_close(ends[2].tensors[group][key], tensor, rtol=1e-9, atol=1e-12)


def test_a_run_keeps_its_kind_of_optimizer(configured: Configure, tmp_path: Path) -> None:
    train(configured(budget={"tokens": 1_000}), tmp_path / "run", quiet=True)
    rule = "optimizer.kind: cannot change in the middle of a run, got 'muon'; start a new run"
    with pytest.raises(SettingError, match=rule):
        resume(tmp_path / "run", settings={"optimizer.kind": "muon"}, quiet=True)


@pytest.mark.parametrize(
    ("seam", "name"),
    [
        ("lengthen.training.trainer.processor", "processor"),
        ("torch.backends.cpu.get_cpu_capability", "instructions"),
    ],
)
def test_a_run_that_continues_on_another_processor_says_so(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seam: str, name: str
) -> None:
    run = tmp_path / "run"
    train(configured(budget={"tokens": 1_000}), run, quiet=True)
    monkeypatch.setattr(seam, lambda: "another")
    resume(run, settings={"budget": {"tokens": 2_000}}, quiet=True)
    events = read_metrics(RunPaths(run).metrics).events
    (note,) = (text for one in events if name in (text := str(one.facts.get("text"))))
    assert note.endswith("is another: equal to rounding, not to the last digit")


def test_a_run_that_continues_with_coarser_products_says_so(
    configured: Configure, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(configured(budget={"tokens": 1_000}), run, quiet=True)
    torch.set_float32_matmul_precision("medium")
    try:
        resume(run, settings={"budget": {"tokens": 2_000}}, quiet=True)
    finally:
        torch.set_float32_matmul_precision("highest")
    texts = [str(one.facts.get("text")) for one in read_metrics(RunPaths(run).metrics).events]
    rule = "equal to rounding, not to the last digit"
    assert f"matmul_precision was ieee, is bf16: {rule}" in texts
