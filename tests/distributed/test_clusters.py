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


UNKNOWN = "nosuch.invalid"
WITHOUT_A_HEAD = {
    "each-node.sh": ({"NODES": "2", "HEAD": f"{UNKNOWN}:29500"}, "HEAD: "),
    "slurm.sbatch": ({"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": f"{UNKNOWN},b"}, ""),
}


@pytest.mark.parametrize("file", WITHOUT_A_HEAD)
def test_a_host_whose_name_does_not_resolve_is_one_line(file: str, tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"  # stands in for SLURM's, which needs its daemon
    scontrol.write_text(f"#!/bin/sh\nprintf '{UNKNOWN}\\nb\\n'\n")
    scontrol.chmod(0o755)
    variables, prefix = WITHOUT_A_HEAD[file]
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    job = started(file, "recipe", tmp_path / "store", tmp_path / "run", **variables, **path)
    said = f"lengthen: {prefix}{UNKNOWN} does not resolve\n"
    assert (*job.communicate(), job.returncode) == ("", said, 2)


def started(file: str, config: str, store: Path, run: Path, **variables: str) -> "Job":
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where torchrun is
    env = {**os.environ, "PATH": path, "PROCESSES": "1", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        ["bash", CLUSTER / file, config, store, run, "--run.sharded", "true"],
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
    several = {"NODES": "2", "HEAD": head}
    nodes = [started("each-node.sh", file, store, tmp_path / "two", **several) for _ in range(2)]
    for node in nodes:
        finished(node)
    for run in ("one", "two"):
        same(steps(tmp_path / run), steps(tmp_path / "alone"), 1e-9, 1e-6)
