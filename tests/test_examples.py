"""The examples run as a reader would run them, and do what they are there to show."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import lengthen
from lengthen.data.prepare import prepare
from lengthen.run.records import to_json
from tests import ranks

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(2000)), encoding="utf-8")
    return text


@pytest.fixture
def numbers(text_file: Path, tmp_path: Path) -> Path:
    """A token store of that text."""
    prepare([str(text_file)], tmp_path / "store", tokenizer="bytes", valid=0.1, quiet=True)
    return tmp_path / "store"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_plain_loop_lengthens_its_steps_and_learns(
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len((EXAMPLES / "plain_loop.py").read_text(encoding="utf-8").splitlines()) < 45
    run(monkeypatch, "plain_loop.py", text_file, "40", tmp_path / "run")
    printed = capsys.readouterr().out
    lines = re.findall(r"^step (\d+)  length (\d+)  loss (\d+\.\d+)$", printed, re.MULTILINE)
    lengths = [int(length) for _, length, _ in lines]
    losses = [float(loss) for _, _, loss in lines]
    assert len(lines) == 40
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[19], lengths[20]) == (8, 56, 64)
    assert losses[-1] < losses[0] - 1
    assert [step.length for step in lengthen.read_metrics(tmp_path / "run").steps] == lengths


def test_a_trainer_of_transformers_lengthens_its_steps_and_learns(
    numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="transformers is a dev dependency")
    out = tmp_path / "out"
    run(monkeypatch, "transformers_trainer.py", numbers, out, "20000")
    steps = lengthen.read_metrics(out).steps
    lengths = [step.length or 0 for step in steps]
    assert lengths == sorted(lengths)
    assert lengths[0] == 8 < lengths[-1]
    assert steps[0].loss
    assert steps[-1].loss
    assert steps[-1].loss < steps[0].loss - 1


def test_a_function_paces_the_length(
    numbers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(monkeypatch, "custom_pacing.py", numbers, tmp_path / "run", "20000")
    printed = capsys.readouterr().out
    assert "validation loss" in printed
    assert printed.endswith("lengths 8 16 32\n")
    steps = lengthen.read_metrics(tmp_path / "run").steps
    assert [step.length for step in steps[18:22]] == [8, 8, 16, 16]


@pytest.mark.parametrize(("name", "fewer"), [("nanogpt", "--max_iters=20"), ("trainer", "20")])
def test_a_comparison_is_over_the_script_of_somebody_else(
    name: str, fewer: str, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "trainer":
        pytest.importorskip("transformers", reason="transformers is a dev dependency")
    assert "import lengthen" not in (EXAMPLES / f"commands/{name}.py").read_text(encoding="utf-8")
    tables = tomllib.loads((EXAMPLES / f"commands/{name}.toml").read_text(encoding="utf-8"))
    tables["command"][0] = sys.executable
    tables["command"].append(fewer)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)  # where a text.txt is
    result = lengthen.compare({**tables, "seeds": [0]}, "out", jobs=2, quiet=True)
    assert (result.missing, result.unfinished) == (0, ())
    runs = [path.parent for path in Path("out").rglob("metrics.jsonl")]
    assert len(runs) == 2
    for metrics in map(lengthen.read_metrics, runs):
        first, last = metrics.steps[0].loss, metrics.evaluations[-1]
        assert first
        assert last.loss
        assert last.loss < first
        assert last.tokens == 20480


def test_a_script_of_nanogpts_shape_makes_its_folder(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "out"
    run(
        monkeypatch,
        "commands/nanogpt.py",
        f"--text={text_file}",
        f"--out_dir={out}",
        "--max_iters=1",
    )
    assert len((out / "log.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_a_loop_of_nanogpts_shape_takes_22_new_lines_and_resumes_exactly(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, lengthened = (
        (EXAMPLES / f"commands/nanogpt{name}.py").read_text(encoding="utf-8").split('"""', 2)[2]
        for name in ("", "_lengthened")
    )
    new = Counter(lengthened.splitlines()) - Counter(plain.splitlines())
    assert new.total() == 22, "\n".join(new)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = f"--text={text_file}", "--max_iters=20", "--eval_interval=8"

    def train(out: Path, *more: str) -> list[dict[str, Any]]:
        run(monkeypatch, "commands/nanogpt_lengthened.py", *words, f"--out_dir={out}", *more)
        return [to_json(one) | {"seconds": None} for one in lengthen.read_metrics(out).records]

    def cut_short() -> int:
        saves = iter([torch.save])
        dies = partial(os._exit, 0)  # as the second one begins
        monkeypatch.setattr(torch, "save", lambda *given: next(saves, lambda *_: dies())(*given))
        train(broken)
        return 1

    records = train(whole)
    lengths = [one["length"] for one in records if "length" in one]
    assert lengths[:4] == [8, 16, 24, 32]
    assert lengths == sorted(lengths)
    assert sum(one["kind"] == "eval" for one in records) > 2
    ranks.finish(ranks.start(cut_short))
    assert 8 < len(lengthen.read_metrics(broken).steps) < len(lengths)
    assert train(broken, "--init_from=resume") == records


@pytest.mark.slow
def test_a_comparison_gives_a_verdict(
    numbers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(monkeypatch, "comparison.py", numbers, tmp_path / "out", "20000")
    assert "lengthened" in capsys.readouterr().out
    assert len(list((tmp_path / "out").rglob("metrics.jsonl"))) == 6


@pytest.mark.slow
def test_a_context_is_extended_from_the_example_alone(numbers: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "TRUNK": "20480", "MORE": "61440"}
    words = [EXAMPLES / "context/extend.sh", numbers, tmp_path]
    printed = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    long, old = (lengthen.read_metrics(tmp_path / name).steps for name in ("long", "old"))
    lengths = [step.length or 0 for step in long]
    assert lengths == sorted(lengths)
    assert set(lengths) == {512, 1024, 2048, 4096}
    assert {step.length for step in old} == {512}
    assert long[-1].tokens == old[-1].tokens == 61440
    assert long[-1].lr == old[-1].lr
    *lines, difference = re.findall(r"(?:loss|difference) ([+-]?\d+\.\d{4})", printed)
    assert float(difference) == pytest.approx(float(lines[0]) - float(lines[1]), abs=2e-4)
