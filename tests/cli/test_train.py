"""`lengthen train`: what it says beforehand, at its start and at its end."""

import tomllib
from pathlib import Path

import pytest

from lengthen.cli.main import main

TINY = "--model.layers 1 --model.width 16 --model.heads 2 --budget.tokens 20K".split()
Captured = pytest.CaptureFixture[str]


def test_a_dry_run_prints_the_settings_of_the_run_and_writes_nothing(
    store: Path, tmp_path: Path, capsys: Captured
) -> None:
    words = ["train", "laptop-2min", "--data", str(store), *TINY, "--batch.micro_tokens", "1024"]
    assert main([*words, "--dry-run", "--out", str(tmp_path / "run")]) == 0
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert tomllib.loads(said) == tomllib.loads((tmp_path / "run/config.toml").read_text())


def test_a_dry_run_needs_neither_a_store_nor_a_place(capsys: Captured) -> None:
    assert main(["train", "laptop-2min", "--dry-run", "--optimizer.learning_rate", "1e-3"]) == 0
    rates = tomllib.loads(capsys.readouterr().out)["optimizer"]
    assert (rates["learning_rate"], rates["min_learning_rate"]) == (1e-3, 1e-4)
