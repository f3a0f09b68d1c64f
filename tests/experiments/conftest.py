"""A small comparison whose runs were trained once, in this process."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lengthen.config.schema import Config
from lengthen.experiments import runner
from lengthen.experiments.compare.file import Comparison, Planned, read_comparison
from lengthen.experiments.runner import Job, Machine, Process
from lengthen.experiments.status import RunStatus, run_status
from lengthen.training.start import train
from lengthen.util.errors import LengthenError

FILE = """
recipe = "laptop-2min"
baseline = "baseline"
seeds = [0, 1, 2]
data.path = "{store}"
model = {{ layers = 1, width = 16, heads = 2, length = 64 }}
batch = {{ rows = 8, micro_tokens = 512 }}
budget.tokens = 6000
evaluation = {{ every_tokens = 1000, tokens = 512 }}
saving = {{ every_steps = 0, keep = 1 }}

[variants.baseline]
pacing.kind = "constant"
[variants.slw]
pacing = {{ kind = "linear", start = 8, duration = 8 }}
"""

ON_THE_CLOCK = ("seconds", "probe seconds", "evaluation seconds", "seconds: times fewer")
Written = Callable[..., Path]


def status_of(root: Path, run: Planned) -> RunStatus:
    """Read how far a run of the comparison in `root` is."""
    return run_status(run.directory(root), run.asked)


@pytest.fixture
def written(tmp_path: Path, store: Path) -> Written:
    """Write the small comparison's file, with texts in it replaced and more behind it."""

    def write(*, more: str = "", **replaced: str) -> Path:
        text = FILE.format(store=store)
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "small.toml"
        path.write_text(text + more, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[Comparison, Path]:
    """The small comparison and the directory of its finished runs; nobody changes either."""
    root = tmp_path_factory.mktemp("compared")
    file = root / "small.toml"
    file.write_text(FILE.format(store=store), encoding="utf-8")
    comparison = read_comparison(file)
    for run in comparison.runs:
        train(run.config, run.directory(root), quiet=True)
    return comparison, root


@pytest.fixture(scope="session")
def known_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Where finished runs lie, by their configuration; every test adds to them."""
    return tmp_path_factory.mktemp("runs"), {}


@pytest.fixture
def in_this_process(
    known_runs: tuple[Path, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train runs in this process, each configuration once."""
    train_here(monkeypatch, *known_runs)


def train_here(monkeypatch: pytest.MonkeyPatch, folder: Path, known: dict[str, Path]) -> None:
    """Train what is started in this process; copy what is `known`: a run is its configuration's."""

    def start(job: Job, _machine: Machine, slot: int) -> Process:
        job.directory.parent.mkdir(parents=True, exist_ok=True)
        runner.config_beside(job.directory).write_text(job.config.to_toml(), encoding="utf-8")
        error = ""
        assert isinstance(job.config, Config)
        try:
            code = 0
            _train_or_copy(job.directory, job.config, folder, known)
        except LengthenError as caught:
            code, error = caught.exit_code, f"lengthen: {caught}\n"
        process = Process(job, slot, subprocess.Popen(["sh", "-c", f"exit {code}"]))
        process.log.write_text(error, encoding="utf-8")
        process.popen.wait()
        return process

    monkeypatch.setattr(runner, "start", start)
    monkeypatch.setattr(runner, "LOOK_SECONDS", 0.0)


def _train_or_copy(place: Path, config: Config, folder: Path, known: dict[str, Path]) -> None:
    if place.exists():
        train(config, place, resume="auto", quiet=True)
        return
    text, new = config.to_toml(), folder / str(len(list(folder.iterdir())))
    try:
        if text not in known:
            train(config, new, quiet=True)
            known[text] = new
    finally:
        if known.get(text, new).exists():
            shutil.copytree(known.get(text, new), place)


def facts_of(root: Path) -> Mapping[str, Any]:
    """All that the comparison in `root` says but the clock on the wall, and what was amended."""
    facts: dict[str, Any] = json.loads((root / "small.json").read_text())
    facts["verdicts"] = [one for one in facts["verdicts"] if not one.startswith("Amended")]
    for table in facts["tables"]:
        kept = [n for n, column in enumerate(table["columns"]) if column not in ON_THE_CLOCK]
        table["columns"] = [table["columns"][n] for n in kept]
        table["rows"] = [[row[n] for n in kept] for row in table["rows"]]
    return facts
