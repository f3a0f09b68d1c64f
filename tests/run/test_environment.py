"""environment.json: what a run depends on, without secrets."""

import subprocess
from pathlib import Path

from lengthen.run.environment import VARIABLES, environment

ROOT = Path(__file__).parents[2]


def test_the_environment_keeps_no_secret() -> None:
    command = ["lengthen", "train", "--api-key=abc", "--token=x", "--run.seed=3"]
    recorded = environment(command)
    masked = ["lengthen", "train", "--api-key=***", "--token=***", "--run.seed=3"]
    assert recorded["command"] == masked
    assert recorded["packages"]["torch"]
    assert set(recorded["variables"]) <= set(VARIABLES)


def test_the_commit_is_that_of_the_source_tree() -> None:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert environment([])["commit"].removesuffix("-dirty") == head
