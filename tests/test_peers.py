"""A rank that dies: the others say so and save nothing; a launcher goes on without a human."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lengthen.runlog import RunPaths, read_metrics
from lengthen.runs import train
from tests.conftest import Configure
from tests.test_sharded import finished, same, steps, torchrun

pytestmark = pytest.mark.ranks


def ranks(command: list[str], world: int) -> list["subprocess.Popen[str]"]:
    """Start processes that meet each other as the launcher's would, without a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def wait_behind(run: Path, step: int, process: "subprocess.Popen[str]") -> None:
    begun = time.monotonic()
    while not RunPaths(run).metrics.exists() or len(steps(run)) <= step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < begun + 120
        time.sleep(0.02)


@pytest.mark.parametrize("dead", [0, 1])
@pytest.mark.parametrize("sharded", [False, True])
def test_who_is_left_says_so_and_saves_nothing(
    configured: Configure, tmp_path: Path, dead: int, sharded: bool
) -> None:
    config = configured(
        budget={"tokens": 4_000_000}, run={"sharded": sharded}, saving={"every_steps": 4}
    )
    (tmp_path / "config.toml").write_text(config.to_toml())
    words = ["train", str(tmp_path / "config.toml"), "--quiet", "--out", str(tmp_path / "run")]
    both = ranks([sys.executable, "-m", "lengthen", *words], 2)
    wait_behind(tmp_path / "run", 5, both[0])
    both[dead].kill()
    _, errors = both[1 - dead].communicate(timeout=60)
    assert both[1 - dead].returncode == 9
    log = RunPaths(tmp_path / "run").metrics
    (line,) = [line for line in errors.splitlines() if line.startswith("lengthen:")]
    assert f"rank {1 - dead} lost another rank behind step" in line
    saved = [line for line in read_metrics(log).of("event") if line["event"] == "saved"]
    assert line.endswith(f"goes on from {saved[-1]['name']}")
    assert dead == 0 or not list(RunPaths(tmp_path / "run").checkpoints.glob(".tmp-*"))
    assert "Traceback" not in errors
    both[dead].communicate()


def worker(launcher: "subprocess.Popen[str]", rank: int) -> int:
    """The process of a rank below a launcher."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher.pid and f"RANK={rank}".encode() in environment:
            return int(place.name)
    raise AssertionError("no such rank")


def test_the_launcher_brings_a_run_to_its_end_whose_worker_was_killed(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(
        budget={"tokens": 14_000},
        run={"precision": "fp64", "sharded": True},
        saving={"every_steps": 3},
    )
    train(config, tmp_path / "unbroken", shown=False)
    (tmp_path / "config.toml").write_text(config.to_toml())
    run = tmp_path / "run"
    words = ("train", str(tmp_path / "config.toml"), "--quiet", "--resume", "auto")
    launcher = torchrun(2, *words, "--out", str(run), before=("--max-restarts", "3"))
    wait_behind(run, 8, launcher)
    os.kill(worker(launcher, 1), signal.SIGKILL)
    finished(launcher)
    same(steps(run), steps(tmp_path / "unbroken"), 1e-9, 1e-6)
    events = [line["event"] for line in read_metrics(RunPaths(run).metrics).of("event")]
    assert "resumed" in events
