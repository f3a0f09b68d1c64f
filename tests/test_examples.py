"""The examples run as a reader would run them, and do what they are there to show."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lengthen.data.prepare import prepare
from lengthen.reporting.gather import gather

EXAMPLES = Path(__file__).parents[1] / "examples"


def text_file(folder: Path) -> Path:
    text = folder / "text.txt"
    text.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(1000)), encoding="utf-8")
    return text


def example(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_a_plain_loop_lengthens_its_steps_and_learns(tmp_path: Path) -> None:
    source = EXAMPLES / "plain_loop.py"
    assert len(source.read_text(encoding="utf-8").splitlines()) < 45
    run = example("-W", "error", source, text_file(tmp_path), "40", tmp_path / "run")
    assert (run.returncode, run.stderr) == (0, "")
    lines = re.findall(r"^step (\d+)  length (\d+)  loss (\d+\.\d+)$", run.stdout, re.MULTILINE)
    lengths = [int(length) for _, length, _ in lines]
    losses = [float(loss) for _, _, loss in lines]
    assert len(lines) == 40
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[19], lengths[20]) == (8, 56, 64)
    assert losses[-1] < losses[0] - 1
    (logged,) = gather([tmp_path / "run"])
    assert [step.length for step in logged.metrics.steps] == lengths


def test_a_trainer_of_transformers_lengthens_its_steps_and_learns(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is a dev dependency")
    store = tmp_path / "store"
    prepare([str(text_file(tmp_path))], store, tokenizer="bytes", valid=0.1, progress=False)
    source, out = EXAMPLES / "transformers_trainer.py", tmp_path / "out"
    run = example(source, store, out, "20000")
    assert run.returncode == 0, run.stderr
    (logged,) = gather([out])
    steps = logged.metrics.steps
    lengths = [step.length or 0 for step in steps]
    assert lengths == sorted(lengths)
    assert lengths[0] == 8 < lengths[-1]
    assert (steps[-1].loss or 0) < (steps[0].loss or 0) - 1
