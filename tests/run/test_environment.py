"""environment.json: what a run depends on, without secrets."""

import subprocess
from pathlib import Path

import pytest

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


def test_the_commit_is_no_tag_and_null_where_git_tells_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthen.run.environment.__file__", str(tmp_path / "a" / "b" / "c.py"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a"]):
        assert environment([])["commit"] is None
        subprocess.run([*git, *words], check=True)
    untagged = environment([])["commit"]
    subprocess.run([*git, "tag", "-a", "v1", "-m", "a"], check=True)
    assert environment([])["commit"] == untagged
    assert len(untagged) == 40
