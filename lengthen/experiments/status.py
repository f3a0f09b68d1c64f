"""Where the runs of a comparison stand, from their files alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lengthen.analysis.summary import why_diverged
from lengthen.config import load as settings
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.data.store import MANIFEST
from lengthen.experiments.compare.file import Comparison, Planned
from lengthen.experiments.runner import attempted
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.run.records import Event
from lengthen.util.errors import SettingError, printable

State = Literal["missing", "begun", "finished", "diverged"]
RUNS = "runs"  # in a comparison's directory
# Settings that change no result beyond rounding: where a store lies, and what memory allows.
NO_RESULT = ("data.path", "batch.micro_tokens")


@dataclass(frozen=True)
class Standing:
    """One run: how far it is, and its measurements so far."""

    state: State
    metrics: Metrics
    found: Config | None = None  # that it is trained with, once it has begun


def directory(root: Path, run: Planned) -> Path:
    """Return where a run lies in a comparison's directory."""
    return root / RUNS / run.name


def on_stores(comparison: Comparison) -> Comparison:
    """Return the comparison with what its stores decide, as far as these are there.

    What is finished needs no store. Raises DataError and SettingError where one does not fit.
    """
    paths = {run.config.data.path: run.config for run in comparison.runs}
    there = {p: c for p, c in paths.items() if p is not None and (Path(p) / MANIFEST).is_file()}
    stores = {path: open_store(config) for path, config in there.items()}
    runs = [
        replace(run, config=with_store(run.config, stores[run.config.data.path]))
        if run.config.data.path in stores
        else run
        for run in comparison.runs
    ]
    return replace(comparison, runs=tuple(runs))


def standing(root: Path, run: Planned) -> Standing:
    """Read where a run stands; raises SettingError where another one lies in its place."""
    return standing_of(directory(root, run), run.config)


def standing_of(place: Path, config: Config) -> Standing:
    """Read where the run of `config` in the directory `place` stands.

    Raises SettingError where its configuration is another one than `config` comes to now, and
    DataError where only a store could tell that is not there.
    """
    paths = RunPaths(place)
    begun = paths.metrics.is_file()
    if not begun and not paths.config.is_file():
        return Standing("missing", Metrics((), 0))
    found = settings.load(str(paths.config))[0]
    _must_be_the_run(config, found, place)
    if not begun:
        return Standing("missing", Metrics((), 0), found)
    metrics = read_metrics(paths.metrics)
    _must_have_been_all_along(metrics, place)
    return Standing(_state(metrics), metrics, found)


def was_started_so(place: Path, config: Config) -> bool:
    """Return whether the last process of a run was started with `config`, as far as is known."""
    file = place.with_name(place.name + ".toml")
    try:
        _must_be_the_run(config, settings.load(str(file))[0] if file.is_file() else config, place)
    except SettingError:
        return False
    return True


def _state(metrics: Metrics) -> State:
    last = metrics.records[-1] if metrics.records else None
    if not isinstance(last, Event):
        return "begun"
    if last.name == "finished":
        return "diverged" if why_diverged(metrics) else "finished"
    lost = last.name == "skipped" and last.facts.get("diverged") is not False
    return "diverged" if lost else "begun"


def _must_be_the_run(config: Config, found: Config, place: Path) -> None:
    differences = settings.differences(_decided(config, found), _decided(found, found))
    # A decay that the file leaves open follows from what differs besides.
    for name in sorted(differences, key=lambda name: name == "optimizer.decay_tokens"):
        asked, used = differences[name]
        if name in NO_RESULT or (name, asked) == ("run.device", "auto"):
            continue
        if name == "data.store_id":
            rule = f"run {place} was trained on store {used}, this one is {asked}"
            raise SettingError("data.path", rule, None, "choose another --out")
        holds = f"{place} holds a run with {used!r}" if used is not None else f"{place} has none"
        rule = holds if asked is not None else f"{holds}, the file sets none"
        raise SettingError(name, rule, asked, "choose another --out, or remove that run")


def _decided(config: Config, found: Config) -> Config:
    """Return a configuration with what its store decides: the run's, if that was not there."""
    decay = config.optimizer.decay_tokens or config.budget.tokens
    if decay is None:
        data = {"data": found.data.model_dump()}
        return with_store(settings.with_overrides(config, data), open_store(found))
    decided = {
        "data": {"store_id": config.data.store_id or found.data.store_id},
        "model": {"vocabulary": config.model.vocabulary or found.model.vocabulary},
        "optimizer": {"decay_tokens": decay},
    }
    return settings.with_overrides(config, decided)


def _must_have_been_all_along(metrics: Metrics, place: Path) -> None:
    """Raise SettingError where a run was resumed with other settings than it ends with or began."""
    for event in metrics.events:
        overrides = event.facts.get("overrides")
        for name, value in settings.flat(overrides if isinstance(overrides, dict) else {}).items():
            if name not in (*NO_RESULT, "run.device"):
                rule = f"{place} holds a run that was resumed with {value!r} on the way"
                hint = "choose another --out, or remove that run"
                raise SettingError(name, rule, None, hint)


@dataclass(frozen=True)
class Attempts:
    """What is known about the processes that carried a run out."""

    alone: bool  # every one had the machine to itself, as far as this comparison goes
    threads: frozenset[object]  # that each computed with
    message: str  # the error that ended the last one; empty where none did


UNKNOWN = Attempts(alone=False, threads=frozenset(), message="")


def read_attempts(root: Path) -> Mapping[str, Attempts]:
    """Read attempts.jsonl; runs that this comparison did not start are not in it."""
    attempts: dict[str, Attempts] = {}
    for run, record in attempted(root):
        before = attempts.get(run, Attempts(alone=True, threads=frozenset(), message=""))
        if record.get("event") == "started":
            alone = before.alone and record.get("jobs") == 1
            threads = before.threads | {str(record.get("threads"))}
            attempts[run] = Attempts(alone, threads, "")
        else:
            attempts[run] = replace(before, message=printable(str(record.get("message", ""))))
    return attempts
