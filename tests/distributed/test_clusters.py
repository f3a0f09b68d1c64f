"""The launch files for clusters: they are shell, and those that can run here do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lengthen.training.start import train
from tests.conftest import Configure
from tests.distributed.test_sharded import finished, same, steps, written

CLUSTER = Path(__file__).parents[2] / "examples/cluster"
FILES = sorted(file for file in CLUSTER.iterdir() if file.suffix != ".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_launch_file_is_shell(file: Path) -> None:
    subprocess.run(["bash", "-n", file], check=True)


def started(file: str, config: str, store: Path, run: Path, **variables: str) -> "Job":
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where torchrun is
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [CLUSTER / file, config, store, run, "--run.sharded", "true"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


Job = subprocess.Popen[str]


@pytest.mark.slow
@pytest.mark.ranks
def test_one_node_and_two_train_the_run_of_one_process(
    configured: Configure, store: Path, tmp_path: Path
) -> None:
    config = configured(
        budget={"tokens": 8_000}, run={"precision": "fp64"}, saving={"every_steps": 0}
    )
    train(config, tmp_path / "alone", quiet=True)
    file = written(config, tmp_path / "config.toml")
    finished(started("one-node.sh", file, store, tmp_path / "one", PROCESSES="2"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        head = f"127.0.0.1:{free.getsockname()[1]}"
    several = {"PROCESSES": "1", "NODES": "2", "HEAD": head}
    nodes = [started("each-node.sh", file, store, tmp_path / "two", **several) for _ in range(2)]
    for node in nodes:
        finished(node)
    for run in ("one", "two"):
        same(steps(tmp_path / run), steps(tmp_path / "alone"), 1e-9, 1e-6)
