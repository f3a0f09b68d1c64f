"""`compare` and `tune` with a GPU: runs in processes of their own, two of which share it."""

import json
from pathlib import Path

import pytest
import torch

from lengthen.cli.main import main
from lengthen.config.load import load
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from tests.conftest import Configure
from tests.experiments.conftest import FILE

pytestmark = pytest.mark.gpu


def devices(root: Path) -> list[str]:
    """The device of every run below a directory, as its own process saw it."""
    return [
        json.loads(path.read_text())["numerics"]["device"]
        for path in sorted(root.rglob("checkpoints/*/state.json"))
    ]


def test_compare_brings_every_run_to_its_end(
    store: Path, device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, root = tmp_path / "small.toml", tmp_path / "out"
    text = FILE.format(store=store).replace("[0, 1, 2]", "[0, 1]")
    file.write_text(text.replace("budget", f'run.device = "{device.type}"\nbudget', 1))
    assert main(["compare", str(file), "--out", str(root), "--jobs", "2"]) == 0
    assert "Results at the end of an equal budget" in capsys.readouterr().out
    assert devices(root) == 4 * [device.type]


def test_tune_finds_a_start_and_a_duration(
    on_device: Configure, device: torch.device, tmp_path: Path
) -> None:
    file, root = tmp_path / "asked.toml", tmp_path / "out"
    # So short a training leaves few durations to try.
    config = on_device(optimizer={"warmup_steps": 10}, saving={"every_steps": 0, "keep": 1})
    file.write_text(config.to_toml())
    words = ["--judge-tokens", "512", "--starts", "8", "16", "--jobs", "2"]
    assert main(["tune", str(file), "--out", str(root), *words]) == 0
    chosen = json.loads((root / "tune.json").read_text())["chosen"]
    assert chosen["start"] in (8, 16)
    assert load(str(root / "tuned.toml"))[0].run.device == device.type
    for log in root.rglob("metrics.jsonl"):
        assert read_metrics(RunPaths(log.parent).metrics).steps
