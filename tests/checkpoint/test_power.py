"""Power loss: whatever of the unsynced a disk forgets, what is listed as a checkpoint is whole.

`kill -9` cannot show a sync that is missing: the system still writes what it was given.
"""

import random
import shutil
from pathlib import Path

import pytest

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import damage, list_checkpoints
from lengthen.checkpoint.write import delete_old
from lengthen.config.load import load
from lengthen.run.directory import RunPaths
from lengthen.training.start import train
from tests.checkpoint.test_read import save
from tests.conftest import Configure
from tests.power import Effect, Left, NotedDisk, every_way, moments, put


def newest_of(left: Left, folder: Path) -> int | None:
    """Put what is left into `folder`; every checkpoint listed there is whole; return the newest."""
    shutil.rmtree(folder, ignore_errors=True)
    put(left, folder)
    there = list_checkpoints(folder)
    assert [problem for path in there for problem in damage(path)] == []
    return checkpoint.load_newest(folder)[0].step if there else None


def test_f02_power_that_fails_at_any_operation_of_saves_and_rotation_leaves_the_old_or_the_new(
    tmp_path: Path,
) -> None:
    disk, root = NotedDisk(), tmp_path / "disk"
    root.mkdir()
    save(root, 1, disk)
    first = len(disk.effects)
    save(root, 2, disk)
    second = len(disk.effects)
    delete_old(disk, root, 1, set())
    seen: dict[str, int | None] = {}
    for number, top in enumerate(moments(disk.effects, root)):
        for left in every_way(top):
            key = repr(left)
            if key not in seen:
                seen[key] = newest_of(left, tmp_path / "left")
            oldest = 2 if number >= second else 1 if number >= first else 0
            assert (seen[key] or 0) >= oldest
    assert len(seen) > 50


@pytest.fixture(scope="module")
def trained(
    configured: Configure, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Effect]]:
    disk, run = NotedDisk(), tmp_path_factory.mktemp("power") / "run"
    config = configured(budget={"tokens": 1_500}, saving={"every_steps": 3, "keep": 1})
    train(config, run, disk=disk, quiet=True)
    return run, disk.effects


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))]
)
def test_f02_power_that_fails_in_a_run_leaves_all_that_its_checkpoint_counts_on(
    trained: tuple[Path, list[Effect]], tmp_path: Path, seed: int
) -> None:
    run, effects = trained
    chance = random.Random(seed)
    for at, top in enumerate(moments(effects, run)):
        for fates in (lambda ways: ways - 1, chance.randrange):
            left = top.left(fates)
            whole_run(left, run, effects[:at], tmp_path / f"{at}-{seed}")


def whole_run(left: Left, run: Path, effects: list[Effect], folder: Path) -> None:
    """All that the newest checkpoint counts on is there, and it itself where the log says so."""
    paths = RunPaths(folder)
    shutil.rmtree(folder, ignore_errors=True)
    put(left, folder)
    there = list_checkpoints(paths.checkpoints)
    saved = [effect for effect in effects if b'"saved"' in effect.data]
    assert bool(there) >= bool(saved)
    if there:
        size = checkpoint.load_newest(paths.checkpoints)[0].state["metrics_bytes"]
        whole = RunPaths(run).metrics.read_bytes()
        assert paths.metrics.read_bytes()[:size] == whole[:size]
        load(str(paths.config))
        assert paths.tokenizer.read_bytes() == RunPaths(run).tokenizer.read_bytes()
