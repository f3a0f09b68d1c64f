"""`lengthen launch slurm`: a file to keep and edit, and one line for what cannot work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lengthen.cli.main import main
from tests.conftest import Configure
from tests.distributed.test_sharded import written
from tests.experiments.conftest import FILE as COMPARISON
from tests.ways_out import takes

SHIPPED = Path(__file__).parents[2] / "examples/cluster/slurm.sbatch"
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def words(configured: Configure, tmp_path: Path) -> list[str]:
    config = written(configured(), tmp_path / "my config.toml")
    return ["launch", "slurm", config, "--out", str(tmp_path / "run")]


SIZE = ["--nodes", "3", "--gpus", "4", "--time", "1-2:30"]


def test_the_file_is_the_shipped_one_with_the_words_of_the_run(
    words: list[str], capsys: Captured
) -> None:
    more = ["--run.sharded", "true", "--optimizer.betas", "[0.9, 0.99]", "--run.device", "cpu"]
    assert main([*words, *SIZE, *more]) == 0
    said = capsys.readouterr().out.splitlines()
    shipped = SHIPPED.read_text().splitlines()
    changed = [(new, old) for new, old in zip(said, shipped, strict=True) if new != old]
    given = "--run.sharded true --optimizer.betas '[0.9, 0.99]' --run.device cpu"
    assert [new for new, _ in changed] == [
        "#SBATCH --job-name=run",
        "#SBATCH --nodes=3",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --time=1-2:30",
        f"words=('{words[2]}' --out {words[4]} {given})",
        f"python={sys.executable}",
    ]
    assert not Path(words[4]).exists()


def test_a_machine_without_gpus_asks_for_none(words: list[str], capsys: Captured) -> None:
    assert main([*words, "--nodes", "1", "--cpus", "64", "--time", "30"]) == 0
    said = capsys.readouterr().out
    assert "gpus-per-node" not in said
    assert "#SBATCH --cpus-per-task=64\n" in said


@takes(
    "remove it, or give another name", "write it --to a file, and submit that where there is one"
)
def test_the_file_is_written_once_and_handed_in_where_there_is_slurm(
    words: list[str], tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert main([*words, *SIZE, "--submit"]) == 2
    assert "write it --to a file, and submit that where there is one" in capsys.readouterr().err
    to = ["--to", str(tmp_path / "one.sbatch")]
    assert main([*words, *SIZE, *to]) == 0
    assert (tmp_path / "one.sbatch").read_text().startswith("#!/usr/bin/env bash\n")
    assert main([*words, *SIZE, *to]) == 2
    assert "remove it, or give another name" in capsys.readouterr().err
    assert main([*words, *SIZE, "--to", str(tmp_path / "other.sbatch")]) == 0
    sbatch = programs / "sbatch"
    sbatch.write_text("#!/bin/sh\necho error: no such partition >&2\nexit 1\n")
    sbatch.chmod(0o755)
    assert main([*words, *SIZE, "--submit"]) == 2
    assert "sbatch refuses it: error: no such partition\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("--nodes 0 --time 4:00:00", "--nodes: must be at least 1, got 0"),
        ("--nodes 2 --gpus -1 --time 4:00:00", "--gpus: must be at least 0, got -1"),
        ("--nodes 2 --cpus 0 --time 4:00:00", "--cpus: must be at least 1, got 0"),
        ("--nodes 2 --time 10", "--time: must be more than the 10 minutes that a save may take"),
        ("--nodes 2 --time 0-0:10:00", "--time: must be more than the 10 minutes that a save"),
        ("--nodes 2 --time 0:09:59", "--time: must be more than the 10 minutes that a save may"),
        ("--nodes 2 --time 4h", "--time: must be a time as SLURM has it, such as 4:00:00"),
        ("--nodes 2 --time 1:0 --optimizer.clip -3", "--time: must be more than the 10 minutes"),
        ("--nodes 2 --time 60 --optimizer.clip -3", "optimizer.clip: must be at least 0, got -3"),
        ("--nodes 2 --time 60 --data nosuch", "store "),
    ],
)
def test_what_cannot_work_is_one_line(
    words: list[str], more: str, line: str, capsys: Captured
) -> None:
    assert main([*words, *more.split()]) in (2, 3)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"lengthen: {line}")


@takes(
    "`lengthen compare --lay-out` writes it",
    "give it to `lengthen compare --lay-out`",
    "give a directory for the run",
)
def test_the_runs_of_a_comparison_are_an_array(
    words: list[str], store: Path, tmp_path: Path, capsys: Captured
) -> None:
    array = ["launch", "slurm-array", str(tmp_path / "compared"), "--gpus", "1", "--time", "60"]
    assert main(array) == 2
    assert "DIR: has no commands.txt" in capsys.readouterr().err
    lay_out(store, tmp_path)
    capsys.readouterr()
    assert main(array) == 0
    said = capsys.readouterr().out.splitlines()
    assert "#SBATCH --array=0-5" in said
    assert "#SBATCH --nodes=1" in said
    assert "#SBATCH --exclusive" not in said
    for more in ("--batch.rows 3", "--out other", "--data other", "--nodes 2"):
        assert main([*array, *more.split()]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"lengthen: {more.split()[0]}: ")
    commands = tmp_path / "compared/commands.txt"
    commands.write_text("python -P -m lengthen.experiments.run_command a.toml a\n")
    assert main(array) == 2
    assert "write an array of your own for them" in capsys.readouterr().err
    commands.write_text("")
    assert main(array) == 2
    assert "has no run that is left to train" in capsys.readouterr().err
    assert main([*words[:3], "--time", "60"]) == 2
    assert "give a directory for the run" in capsys.readouterr().err


def test_a_name_of_several_words_is_one_word_for_sbatch(
    words: list[str], tmp_path: Path, capsys: Captured
) -> None:
    at = words.index("--out") + 1
    words[at] = str(tmp_path / "a b'c")
    assert main([*words, "--time", "60"]) == 0
    assert "#SBATCH --job-name=a_b_c" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", ["two\nlines", "no text \udcff"])
def test_a_directory_that_is_no_line_of_text_is_refused_where_a_command_names_it(
    words: list[str], store: Path, tmp_path: Path, capsys: Captured, name: str
) -> None:
    (file := tmp_path / "ask.toml").write_text(COMPARISON.format(store=store))
    out = str(tmp_path / name)
    commands = [["compare", str(file), "--lay-out", out]]
    to = str(tmp_path / "first.sbatch")
    commands += [[*words[:4], out, "--time", "60", "--to", to]]
    for command, option in zip(commands, ("--lay-out", "--out"), strict=True):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"lengthen: {option}: must be one line of text, in UTF-8, got '")
    assert {path.name for path in tmp_path.iterdir()} == {"ask.toml", "my config.toml"}


def lay_out(store: Path, folder: Path) -> Path:
    """Lay a comparison of two variants and three seeds out in `compared`; return its file."""
    file = folder / "ask.toml"
    file.write_text(COMPARISON.format(store=store))
    assert main(["compare", str(file), "--lay-out", str(folder / "compared")]) == 0
    return file


def test_a_token_store_is_no_place_for_a_comparison(
    store: Path, tmp_path: Path, capsys: Captured
) -> None:
    before = sorted(store.iterdir())
    file = tmp_path / "question.toml"
    file.write_text(COMPARISON.format(store=store))
    for option in ("--lay-out", "--out"):
        assert main(["compare", str(file), option, str(store)]) == 2
        assert "must be another directory than a token store" in capsys.readouterr().err
    assert sorted(store.iterdir()) == before


@pytest.mark.slow
def test_an_installed_package_has_every_file_of_ours(tmp_path: Path) -> None:
    root = SHIPPED.parents[2]
    names = ["pyproject.toml", "README.md", "LICENSE"]
    for name in names:
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "lengthen", tmp_path / "lengthen")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    fresh = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", fresh], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(fresh / "bin/python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "-q", str(wheel)], check=True)
    (installed,) = fresh.glob("lib/*/site-packages/lengthen")
    ours = {path.relative_to(root / "lengthen") for path in (root / "lengthen").rglob("*.*")}
    missing = {path for path in ours if not (installed / path).exists()}
    assert {path for path in missing if "__pycache__" not in path.parts} == set()
    words = [str(fresh / "bin/lengthen"), "--version"]
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lengthen ")


@pytest.mark.parametrize("more", ["--look", "--jobs 2", "--threads 2"])
def test_what_lays_out_refuses_what_is_for_training_or_judging(
    more: str, store: Path, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "question.toml"
    file.write_text(COMPARISON.format(store=store))
    assert main(["compare", str(file), "--lay-out", str(tmp_path / "new"), *more.split()]) == 2
    assert capsys.readouterr().err.startswith(f"lengthen: {more.split()[0]}: must be left out")
    assert not (tmp_path / "new").exists()
