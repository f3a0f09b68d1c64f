"""Every byte of a token store, a run or a checkpoint, against what its manifest says."""

from pathlib import Path

from lengthen.checkpoint import read as checkpoint
from lengthen.data import store
from lengthen.run.directory import RunPaths
from lengthen.util.errors import CheckpointError, DataError, SettingError


def verify(path: Path) -> list[str]:
    """Return one line for each thing that is whole.

    Raises DataError for a damaged store, CheckpointError for a damaged checkpoint, both with every
    problem, and SettingError where `path` is none of these.
    """
    if RunPaths(path).config.is_file():
        return _run(path)
    if checkpoint.NAME.fullmatch(path.name):
        return _checkpoints([path])
    if (path / store.MANIFEST).exists():
        return _store(path)
    raise SettingError("DIR", "must be a token store, a run or a checkpoint", str(path))


def _store(path: Path) -> list[str]:
    problems = store.verify(path)
    if problems:
        raise DataError(f"store {path} damaged: {'; '.join(problems)}; prepare it again")
    extra = [f"warning: {path} holds {name} too" for name in store.extra_files(path)]
    return [f"store {path}: every byte as its manifest says", *extra]


def _run(path: Path) -> list[str]:
    found = checkpoint.listed(RunPaths(path).checkpoints)
    if not found:
        raise CheckpointError(f"no checkpoint in {path}; none was saved yet")
    return _checkpoints(found)


def _checkpoints(paths: list[Path]) -> list[str]:
    damaged = [f"{path.name}: {problem}" for path in paths for problem in checkpoint.damage(path)]
    if damaged:
        raise CheckpointError(f"damaged: {'; '.join(damaged)}; resume uses the newest good one")
    whole = [f"checkpoint {path.name}: every byte as its manifest says" for path in paths]
    return whole + [
        f"warning: {path.name} holds {name} too"
        for path in paths
        for name in checkpoint.extra_files(path)
    ]
