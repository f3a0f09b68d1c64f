"""The soak: what it plans, and that it says so where two runs do not end alike."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.soak import Sample, difference, growth, plan, strike

ROOT = Path(__file__).parents[2]


def test_kills_are_many_at_ever_later_steps_and_the_processes_change_as_often_as_asked() -> None:
    kills = plan(steps=20_000, kills=100, changes=10, seed=0)
    assert kills == plan(steps=20_000, kills=100, changes=10, seed=0)
    after = [kill.after for kill in kills if kill.after is not None]
    assert len(kills) == 100
    assert after == sorted(after)
    assert 1 <= after[0] < after[-1] < 20_000
    worlds = [*(kill.ranks.world_size for kill in kills), 1]
    assert sum(a != b for a, b in pairwise(worlds)) == 10
    assert {kill.ranks.sharded for kill in kills if kill.ranks.world_size == 2} == {False, True}
    assert {kill.victim for kill in kills} == {None, 0, 1}
    assert {kill.asynchronous for kill in kills} == {False, True}
    assert any(kill.after is None for kill in kills)


def lines(*losses: float, rows: int = 8) -> list[dict[str, float]]:
    rest = {"tokens": 64, "length": 8, "rows": rows, "lr": 0.1, "joined": 0.0}
    return [{"step": n, "loss": loss, **rest} for n, loss in enumerate(losses)]


def test_losses_are_compared_and_tokens_must_be_the_same() -> None:
    assert difference(lines(2.0, 1.0), lines(2.0, 1.0 + 1e-6)) == pytest.approx(1e-6, rel=1e-3)
    with pytest.raises(RuntimeError, match="step 0: rows is 7, not 8"):
        difference(lines(2.0, rows=7), lines(2.0))
    with pytest.raises(RuntimeError, match="1 lines where the unbroken run has 2"):
        difference(lines(2.0), lines(2.0, 1.0))


def test_memory_is_compared_once_it_has_settled() -> None:
    samples = [Sample(step, 1_000_000 if step > 20 else step) for step in range(100)]
    assert growth(samples, 100) == 0
    leaking = [Sample(step, 1_000_000 + 1000 * step) for step in range(100)]
    assert growth(leaking, 100) > 0.05


def test_a_kill_takes_all_that_a_job_has_started() -> None:
    child = "print(1, flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    job = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == b"1\n"
    strike(job, None)
    output, _ = job.communicate(timeout=10)  # ends once the child, which has the other end, is gone
    assert output == b""
    assert job.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_small_soak_passes(tmp_path: Path) -> None:
    words = "--steps 200 --saves 40 --kills 5 --changes 4 --seed 3".split()
    done = subprocess.run(
        [sys.executable, "scripts/soak.py", *words, "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("soak: passed\n")
    assert "changes of the number of processes: 4\n" in done.stdout
