"""A small comparison whose runs were trained once, in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lengthen.experiments.compare.file import Comparison, Planned, read_comparison
from lengthen.experiments.status import RunStatus, run_status
from lengthen.training.start import train

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

Written = Callable[..., Path]


def status_of(root: Path, run: Planned) -> RunStatus:
    """Read how far a run of the comparison in `root` is."""
    return run_status(run.directory(root), run.config)


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
        train(run.config, run.directory(root), shown=False)
    return comparison, root
