"""A working directory in which commands are given as a user gives them."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from lengthen.cli.main import main

TINY = """
[model]
layers = 1
width = 16
heads = 2
length = 64
[pacing]
kind = "linear"
start = 8
duration = 4
[batch]
rows = 8
[optimizer]
learning_rate = 1e-2
[budget]
tokens = 2000
[evaluation]
tokens = 512
probe_every_steps = 0
[saving]
every_steps = 2
keep = 20
"""


@dataclass(frozen=True)
class Cli:
    """Carries out commands in this process, in an empty directory of the test."""

    capsys: pytest.CaptureFixture[str]

    def refuses(self, message: str, command: str) -> str:
        """Carry out a command that has to fail; its last line must say `message`."""
        code = main(shlex.split(command))
        lines = self.capsys.readouterr().err.splitlines()
        assert code, f"`lengthen {command}` was to say: {message}"
        assert message in lines[-1]
        return lines[-1]

    def works(self, command: str) -> str:
        """Carry out a command that has to succeed; return what it printed."""
        code = main(shlex.split(command))
        shown = self.capsys.readouterr()
        assert code == 0, f"`lengthen {command}`: {shown.err}"
        return shown.out + shown.err


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A folder with a settings file, a store and a finished run on it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    shutil.copytree(store, folder / "store")
    command = f"train {folder}/tiny.toml --data {folder}/store --out {folder}/run --quiet"
    assert main(shlex.split(command)) == 0
    return folder


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> Cli:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(text, encoding="utf-8")
    return Cli(capsys)


@pytest.fixture
def run(cli: Cli, trained: Path) -> Path:
    """The working directory with a copy of what was trained: tiny.toml, store and run."""
    shutil.copytree(trained, ".", dirs_exist_ok=True)
    where = Path("run/config.toml")
    there = where.read_text(encoding="utf-8")
    where.write_text(there.replace(str(trained), str(Path.cwd())), encoding="utf-8")
    return Path("run")
