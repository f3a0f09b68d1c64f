"""The examples run as a reader would run them, and do what they are there to show."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_plain_loop_lengthens_its_steps_and_learns(tmp_path: Path) -> None:
    source = EXAMPLES / "plain_loop.py"
    assert len(source.read_text(encoding="utf-8").splitlines()) < 40
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(1000)), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", source, text, "40"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (run.returncode, run.stderr) == (0, "")
    lines = re.findall(r"^step (\d+)  length (\d+)  loss (\d+\.\d+)$", run.stdout, re.MULTILINE)
    lengths = [int(length) for _, length, _ in lines]
    losses = [float(loss) for _, _, loss in lines]
    assert len(lines) == 40
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[19], lengths[20]) == (8, 56, 64)
    assert losses[-1] < losses[0] - 1
