"""Paths -> runs with names: run directories, directories of runs, other trainers' logs."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lengthen.analysis.external_logs import read_external_log
from lengthen.config.load import read_toml
from lengthen.config.schema import Tables
from lengthen.evaluation.results import Result, weights_at
from lengthen.evaluation.results import read as read_results
from lengthen.run.attempts import ran_side_by_side
from lengthen.run.directory import RunPaths
from lengthen.run.environment import read_environment
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.run.packed import opened
from lengthen.util import console
from lengthen.util.errors import DataError, SettingError, printable

Note = Callable[[str], None]  # called with a line for the user


@dataclass(frozen=True)
class NamedRun:
    """A run as reports see it; it has at least one step, or a foreign log an evaluation."""

    name: str  # unique among the runs gathered with it; printable
    metrics: Metrics
    environment: dict[str, Any]  # empty where there is none, as with other trainers' logs
    config: Tables  # empty likewise
    results: tuple[Result, ...] = ()  # of `eval`
    alone: bool = True  # no run of its comparison was trained beside it, as far as is known


@dataclass(frozen=True)
class _Place:
    """Where a run lies, and how many of the last parts of its known path are its name."""

    path: Path  # resolved
    known: Path  # the same, but in a packed study by the path of that
    parts: int

    @property
    def name(self) -> str:
        text = "/".join(self.known.parts[-self.parts :])
        # A directory's name can hold anything: control characters, or bytes that are no text.
        return printable(text)


def gather(
    paths: Sequence[Path],
    columns: Mapping[str, str] | None = None,
    note: Note = console.note,
) -> list[NamedRun]:
    """Return the runs of `paths` in their order, each once, under names as short as possible.

    A path is a run's directory, a directory that holds runs at any depth (their names are then
    relative to it), such a directory as a packed study, a metrics.jsonl, or another trainer's log,
    which needs `columns` (read_external_log). Of several, those without a step or with a damaged
    file are left out, and `note` gets the reason. Raises SettingError where a path is none
    of these, DataError where no run is left.
    """
    with ExitStack() as stack:
        once = {path.resolve(): path for path in paths}.values()
        folders = {path: stack.enter_context(opened(path)) for path in once}

        def as_given(text: str) -> str:
            for path, folder in folders.items():
                text = text.replace(str(folder), str(path))
            return text

        runs, reasons = _gathered(folders, columns, lambda text: note(as_given(text)))
        reasons = [as_given(text) for text in reasons]
    if not runs:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise DataError(f"{reasons[0]}{more}" if reasons else "no runs were named")
    for text in reasons:
        note(f"{text}; left out")
    return runs


def _gathered(
    folders: Mapping[Path, Path], columns: Mapping[str, str] | None, note: Note
) -> tuple[list[NamedRun], list[str]]:
    """Return the runs below folders, by the path that each stands for, and why others are out."""
    places = [place for path, folder in folders.items() for place in _places(path, folder)]
    named = _with_unique_names(list({place.path: place for place in places}.values()))
    runs, reasons = [], []
    beside = cache(ran_side_by_side)  # a comparison's file is read once for all its runs
    for place in named:
        try:
            alone = not any(map(beside, place.path.parents))
            run = replace(_read(place, columns, note), alone=alone)
        except (DataError, SettingError) as error:
            if len(named) == 1:
                raise
            reasons.append(str(error))  # the others are as good as before
            continue
        if run.metrics.steps or run.metrics.evaluations:
            runs.append(run)
            continue
        unreadable = run.metrics.unreadable
        more = f"; unreadable lines of its log: {unreadable}" if unreadable else ""
        reasons.append(f"{run.name}: a run without steps{more}")
    return runs, reasons


def _places(path: Path, folder: Path) -> list[_Place]:
    whole, known = folder.resolve(), path.resolve()
    if whole.is_file() or _is_run(whole):
        return [_Place(whole, known, 1)]
    if not whole.is_dir():
        raise SettingError("RUN", "no such run, directory or log", str(path))
    if below := [run.relative_to(whole) for run in runs_below(whole)]:
        shared = len(Path(os.path.commonpath(below)).parts) if len(below) > 1 else 0
        return [_Place(whole / run, known / run, len(run.parts) - shared) for run in below]
    rule = "holds no run at any depth; a run's directory has a metrics.jsonl"
    raise SettingError("RUN", rule, str(path))


def _is_run(path: Path) -> bool:
    paths = RunPaths(path)
    return paths.metrics.is_file() or paths.config.is_file()


def runs_below(root: Path) -> Iterator[Path]:
    """Yield the directories of the runs at any depth below `root`."""
    for folder, below, _ in os.walk(root):
        # Hidden ones are what an interrupted command left behind.
        below[:] = sorted(name for name in below if not name.startswith("."))
        if _is_run(Path(folder)):
            below.clear()
            yield Path(folder)


def _with_unique_names(places: list[_Place]) -> list[_Place]:
    """Give runs of one name more of their path, until no two are alike."""
    while True:
        names = [place.name for place in places]
        longer = [
            replace(place, parts=place.parts + 1)
            if names.count(place.name) > 1 and place.parts < len(place.known.parts)
            else place
            for place in places
        ]
        if longer == places:
            return places
        places = longer


def _read(place: _Place, columns: Mapping[str, str] | None, note: Note) -> NamedRun:
    if place.path.is_file():
        return NamedRun(place.name, _read_log(place.path, columns), {}, {})
    paths = RunPaths(place.path)
    metrics = read_metrics(paths.metrics) if paths.metrics.is_file() else Metrics((), 0)
    config = read_toml(paths.config) if paths.config.is_file() else {}
    environment = read_environment(paths.environment)
    return NamedRun(place.name, metrics, environment, config, _results(paths, note))


def _results(paths: RunPaths, note: Note) -> tuple[Result, ...]:
    try:
        results = read_results(paths.evaluations)
    except DataError as error:
        note(f"{error}; the run is shown without it")  # what it trained is as good as before
        return ()
    shown = tuple(result for result in results if _is_of_these_weights(paths, result))
    if left := len(results) - len(shown):
        note(f"{paths.evaluations}: {left} of weights that the run has no more; left out")
    return shown


def _is_of_these_weights(paths: RunPaths, result: Result) -> bool:
    # After a resume from an earlier step, a checkpoint of the same name has other weights.
    now = weights_at(paths.checkpoints / f"step-{result.step or 0:08d}")
    return now is None or result.weights in (None, now)


def _read_log(path: Path, columns: Mapping[str, str] | None) -> Metrics:
    ours = read_metrics(path)
    if ours.steps or path.name == RunPaths(path.parent).metrics.name:
        return ours
    if columns is None:
        rule = "must say which columns another trainer's log has, as step=..., loss=..."
        raise SettingError("columns", rule, None, f"{path} is no metrics.jsonl")
    return read_external_log(path, columns)
