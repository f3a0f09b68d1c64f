"""`lengthen train`: what it says beforehand, at its start and at its end."""

import math
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import lengthen
from lengthen.cli.main import main
from lengthen.config.load import load_run
from lengthen.config.reference import COMMON
from lengthen.model.cost import parameters
from lengthen.run.metrics import read_metrics
from tests.conftest import Configure
from tests.ways_out import takes

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


def test_a_dry_run_refuses_what_the_ranks_of_a_launcher_would_refuse_one_by_one(
    store: Path, tmp_path: Path, capsys: Captured
) -> None:
    words = ["train", "laptop-2min", "--data", str(store), *TINY, "--out", str(tmp_path / "run")]
    assert main([*words, "--quiet"]) == 0
    assert main([*words, "--dry-run"]) == 2
    assert "--overwrite starts it anew" in capsys.readouterr().err
    assert main([*words, "--dry-run", "--overwrite"]) == 0
    again = [*words, "--dry-run", "--resume", "auto"]
    assert main(again) == 0
    assert main([*again, "--optimizer.clip", "0.5"]) == 2
    assert "optimizer.clip: --resume auto found a run with 1.0" in capsys.readouterr().err


def test_a_launch_file_may_say_how_long_ranks_wait_for_each_other_in_any_run(
    store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["train", "laptop-2min", "--data", str(store), *TINY, "--out", str(run), "--quiet"]
    assert main(words) == 0
    assert main([*words, "--resume", "auto", "--run.timeout_seconds", "120"]) == 0
    assert load_run(run / "config.toml").run.timeout_seconds == 120


def test_a_dry_run_needs_neither_a_store_nor_a_place(capsys: Captured) -> None:
    assert main(["train", "laptop-2min", "--dry-run", "--optimizer.learning_rate", "1e-3"]) == 0
    rates = tomllib.loads(capsys.readouterr().out)["optimizer"]
    assert (rates["learning_rate"], rates["min_learning_rate"]) == (1e-3, 1e-4)


@takes("Such as --model.layers 6. A recipe gives what is required; `lengthen settings` has all.")
def test_the_help_has_the_settings_that_are_changed_most(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert len(COMMON) == 10
    assert all(re.search(rf"^{name} ", said, re.MULTILINE) for name in COMMON)
    assert "`lengthen settings`" in said
    assert main(["settings"]) == 0
    assert main(["train", "laptop-2min", "--model.layers", "6", "--dry-run"]) == 0


@pytest.mark.parametrize(
    "pacing",
    [
        {"kind": "linear", "start": 8, "duration": 12},
        {"kind": "adaptive", "start": 8, "max_hold": 20},
    ],
)
def test_the_first_line_of_a_run_says_how_much_it_trains(
    configured: Configure, tmp_path: Path, capsys: Captured, pacing: dict[str, object]
) -> None:
    lengthen.train(configured(pacing=pacing), tmp_path / "run")
    first = capsys.readouterr().err.splitlines()[0]
    said = r"([\d,]+) parameters, ([\d,]+) tokens, ([\d,]+)(?: to ([\d,]+))? steps(?:;|$)"
    found = re.search(said, first)
    assert found
    weights, tokens, *steps = (int(n.replace(",", "")) for n in found.groups() if n)
    assert weights == parameters(load_run(tmp_path / "run/config.toml").model)
    assert tokens == 10_000
    trained = len(read_metrics(tmp_path / "run").steps)
    assert min(steps) <= trained <= max(steps)
    assert len(steps) == (2 if pacing["kind"] == "adaptive" else 1)


@pytest.mark.parametrize(
    ("pacing", "lengths"),
    [
        ({"kind": "linear", "start": 8, "duration": 100}, "16"),
        ({"kind": "adaptive", "start": 8, "max_hold": 20}, "16 to 24"),
    ],
)
def test_a_run_that_ends_below_full_length_says_so_first_and_last_and_in_its_report(
    configured: Configure,
    tmp_path: Path,
    capsys: Captured,
    pacing: dict[str, object],
    lengths: str,
) -> None:
    run = tmp_path / "run"
    for shown in (
        lengthen.train(configured(pacing=pacing, budget={"tokens": 2000}), run),
        lengthen.resume(run, quiet=True),
    ):
        last = int(read_metrics(run).steps[-1].length or 0)
        assert (shown.length, shown.full_length) == (last, 64)
        assert re.search(rf"^last length +{last} of 64$", str(shown), re.MULTILINE)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.endswith(f" steps; the last step has length {lengths}, not 64")
    note = f"note: run: full length is not reached, the last step has length {last} of 64"
    assert note in str(lengthen.report([run]))


def test_the_last_length_is_the_one_trained_where_growth_finds_no_row_left(
    configured: Configure, tmp_path: Path
) -> None:
    eager = {"kind": "adaptive", "start": 8, "every": 1, "patience": 1, "max_hold": 1}
    run = tmp_path / "run"
    for rows in (9, 10, 12, 16):  # of the budget: with 9 of 8 tokens none of 16 fits behind them
        changes = {"pacing": eager, "budget": {"tokens": 64 + 8 * (rows - 8)}}
        config = configured(**changes, batch={"rows": 8, "micro_tokens": 512})
        first = lengthen.train(config, run, quiet=True, overwrite=True)
        last = read_metrics(run).steps[-1].length
        assert first.length == last
        assert lengthen.resume(run, quiet=True).length == last


def test_a_quiet_run_says_nothing_at_its_start(
    configured: Configure, tmp_path: Path, capsys: Captured
) -> None:
    lengthen.train(configured(budget={"tokens": 1000}), tmp_path / "run", quiet=True)
    assert capsys.readouterr().err == ""


def test_the_last_line_of_a_run_is_a_command_that_works(
    store: Path, tmp_path: Path, capsys: Captured
) -> None:
    run = tmp_path / "my run"
    assert main(["train", "laptop-2min", "--data", str(store), *TINY, "--out", str(run)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    name, *words = shlex.split(last.removeprefix("next: "))
    assert (name, words) == ("lengthen", ["sample", str(run)])
    assert main([*words, "--tokens", "5"]) == 0


def test_after_a_loss_that_is_not_finite_the_next_command_is_a_report(
    configured: Configure, tmp_path: Path
) -> None:
    summary = lengthen.train(configured(budget={"tokens": 1000}), tmp_path / "run", quiet=True)
    poor = replace(summary, validation_loss=math.nan)
    assert str(poor).splitlines()[-1] == f"next: lengthen report {tmp_path / 'run'}"
