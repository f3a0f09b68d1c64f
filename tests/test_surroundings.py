"""What a machine lacks: packages, a compiler, a new enough PyTorch, a network."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import Configure
from tests.exchange.made import TINY, saved_run
from tests.ways_out import takes

ROOT = Path(__file__).parents[1]
# Any connection ends the process at once: training and judging need none.
SINGLE_PROCESS = """
import sys

def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        print("opened", event, arguments, file=sys.stderr, flush=True)
        import os
        os._exit(99)

sys.addaudithook(forbid)
"""
WITHOUT = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
OLD_TORCH = """
import torch.distributed.fsdp
torch.__version__ = "2.5.1+cpu"
"""
LACKING_TORCH = "import torch.nn.utils; del torch.nn.utils.get_total_norm\n"
MAIN = "from lengthen.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"


def lengthen(
    before: str, *words: str | Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", before + MAIN, *map(str, words)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def train_words(configured: Configure, folder: Path, **tables: dict[str, object]) -> list[str]:
    tables = {"budget": {"tokens": 1000}, **tables}
    (folder / "config.toml").write_text(configured(**tables).to_toml())
    return ["train", str(folder / "config.toml"), "--quiet", "--out", str(folder / "run")]


def test_f52_training_opens_no_connection_that_could_fail_or_hang(
    configured: Configure, tmp_path: Path
) -> None:
    done = lengthen(SINGLE_PROCESS, *train_words(configured, tmp_path))
    assert done.returncode == 0, done.stderr


def test_f56_a_missing_set_is_named_with_what_it_needs_and_no_network_is_asked(
    tmp_path: Path,
) -> None:
    run = saved_run(tmp_path / "run", TINY)
    done = lengthen(SINGLE_PROCESS, "eval", run, "--tasks", "lambada", "--sets", tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "lambada" in line
    assert str(tmp_path) in line


def test_f53_without_a_compiler_compiling_is_refused_before_anything_is_written(
    configured: Configure, tmp_path: Path
) -> None:
    words = train_words(configured, tmp_path, run={"compile": "on"})
    done = lengthen("", *words, PATH=str(tmp_path), CXX="")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    said = "run.compile: needs a compiler, g++, and there is none on PATH, got 'on'; install one"
    assert said in line
    assert not (tmp_path / "run").exists()


def test_f53_a_compiler_that_the_environment_names_must_be_there(
    configured: Configure, tmp_path: Path
) -> None:
    words = train_words(configured, tmp_path, run={"compile": "on"})
    done = lengthen("", *words, CXX="no-such-compiler")
    assert done.returncode == 2
    assert "needs a compiler, no-such-compiler, and" in done.stderr


def test_f53_no_pytorch_is_refused_for_its_version(configured: Configure, tmp_path: Path) -> None:
    done = lengthen(OLD_TORCH, *train_words(configured, tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@takes("{} {} does not fit: {}; pip install --upgrade {}")
def test_f53_what_a_pytorch_lacks_is_named_with_the_way_out(
    configured: Configure, tmp_path: Path
) -> None:
    done = lengthen(LACKING_TORCH, *train_words(configured, tmp_path))
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"lengthen: torch {version('torch')} does not fit: cannot import name "
        "'get_total_norm' from 'torch.nn.utils'; pip install --upgrade torch\n"
    )


@pytest.mark.parametrize(
    ("installed", "stays"),
    [("2.11.0", True), ("2.11.0+cu130", True), ("2.11.0a0+7f3c.nv26.2", True), ("2.10.0", False)],
)
def test_an_installation_leaves_a_pytorch_of_2_11_or_newer_as_it_is(
    tmp_path: Path, installed: str, stays: bool
) -> None:
    facts = tmp_path / f"torch-{installed}.dist-info"
    facts.mkdir()
    text = f"Metadata-Version: 2.1\nName: torch\nVersion: {installed}\n"
    (facts / "METADATA").write_text(text, encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = (one for one in project["dependencies"] if one.startswith("torch"))
    words = ["--isolated", "install", "--dry-run", "--no-index", wanted]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (f"Requirement already satisfied: {wanted}" in done.stdout) == stays, done.stderr
    assert (done.returncode == 0) == stays


@pytest.mark.parametrize(
    "name",
    [
        "torch",
        "tokenizers",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("safetensors", "filelock", "rich")
        ),
    ],
)
def test_f53_a_required_package_that_is_missing_is_one_line(
    configured: Configure, tmp_path: Path, name: str
) -> None:
    done = lengthen(WITHOUT.format(name=name), *train_words(configured, tmp_path))
    assert done.returncode == 2, done.stderr
    assert done.stderr == (f"lengthen: the package {name} is not installed; pip install {name}\n")


def test_f53_a_module_of_ours_that_is_missing_is_a_bug_and_says_so(
    configured: Configure, tmp_path: Path
) -> None:
    hidden = (
        WITHOUT.format(name="lengthen")
        .replace('name.partition(".")[0]', "name")
        .replace("'lengthen'", "'lengthen.training.start'", 1)
    )
    done = lengthen(hidden, *train_words(configured, tmp_path))
    assert done.returncode == 1
    assert "this is a bug" in done.stderr
