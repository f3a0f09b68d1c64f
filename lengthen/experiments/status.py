"""How far the runs of a comparison or a search are, from their files alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lengthen.analysis.summary import why_diverged
from lengthen.config import load as settings
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.experiments.command import Command, read_command
from lengthen.experiments.runner import config_beside
from lengthen.run.attempts import read_attempts
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.run.records import Event
from lengthen.util.errors import SettingError, printable

State = Literal["missing", "begun", "finished", "diverged"]
# Settings that change no result beyond rounding: a store's place, what a machine allows, trackers.
NO_RESULT = ("data.path", "batch.micro_tokens", "run.timeout_seconds", "run.trackers")


@dataclass(frozen=True)
class RunStatus:
    """How far a run is, and its measurements so far."""

    state: State
    metrics: Metrics
    config: Config | None = None  # that it is trained with, once it has begun; none of a command


def run_status(directory: Path, config: Config | Command) -> RunStatus:
    """Read how far the run of `config` in `directory` is.

    Raises SettingError where its configuration is another one than `config` comes to now, and
    DataError where only a store could tell that is not there.
    """
    paths = RunPaths(directory)
    begun = paths.metrics.is_file()
    if not begun and not paths.config.is_file():
        return RunStatus("missing", Metrics((), 0))
    used = _must_be_the_run(config, paths.config, directory)
    if not begun:
        return RunStatus("missing", Metrics((), 0), used)
    metrics = read_metrics(paths.metrics)
    _must_have_been_all_along(metrics, directory)
    return RunStatus(_state(metrics), metrics, used)


def was_started_so(directory: Path, config: Config | Command) -> bool:
    """Return whether the last process of a run was started with `config`, as far as is known."""
    file = config_beside(directory)
    try:
        if file.is_file():
            _must_be_the_run(config, file, directory)
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


def _must_be_the_run(config: Config | Command, file: Path, directory: Path) -> Config | None:
    """Return what `file` says, unless of a command; raises SettingError if it is another run's."""
    if isinstance(config, Command):
        used, asked, there = None, config.tables(), read_command(file).tables()
    else:
        used = settings.load(str(file))[0]
        asked, there = (_decided(one, used).tables() for one in (config, used))
    differences = settings.differences(asked, there)
    # A decay that the file leaves open follows from what differs besides.
    for name in sorted(differences, key=lambda name: name == "optimizer.decay_tokens"):
        now, then = differences[name]
        if name in NO_RESULT or (name, now) == ("run.device", "auto"):
            continue
        if name == "data.store_id":
            rule = f"run {directory} was trained on store {then}, this one is {now}"
            raise SettingError("data.path", rule, None, "choose another --out")
        holds = f"{directory} has none"
        if then is not None:
            holds = f"{directory} holds a run with {then!r}"
        rule = holds if now is not None else f"{holds}, the file sets none"
        raise SettingError(name, rule, now, "choose another --out, or remove that run")
    return used


def _decided(config: Config, used: Config) -> Config:
    """Return a configuration with what it leaves to its store, and to the run's device."""
    config = settings.with_auto_as(config, used.run)
    decay = config.optimizer.decay_tokens or config.budget.tokens
    if decay is None:
        data = {"data": used.data.model_dump()}
        return with_store(settings.with_overrides(config, data), open_store(used))
    decided = {
        "data": {"store_id": config.data.store_id or used.data.store_id},
        "model": {"vocabulary": config.model.vocabulary or used.model.vocabulary},
        "optimizer": {"decay_tokens": decay},
    }
    return settings.with_overrides(config, decided)


def _must_have_been_all_along(metrics: Metrics, directory: Path) -> None:
    """Raise SettingError where a run was resumed with other settings than it ends with or began."""
    for event in metrics.events:
        overrides = event.facts.get("overrides")
        for name, value in settings.flat(overrides if isinstance(overrides, dict) else {}).items():
            if name not in (*NO_RESULT, "run.device"):
                rule = f"{directory} holds a run that was resumed with {value!r} on the way"
                hint = "choose another --out, or remove that run"
                raise SettingError(name, rule, None, hint)


@dataclass(frozen=True)
class Attempts:
    """What is known about the processes that carried a run out."""

    alone: bool = False  # every one had the machine to itself, as far as this comparison goes
    threads: frozenset[str] = frozenset()  # that each computed with
    message: str = ""  # the error that ended the last one; empty where none did


def attempts_of_runs(root: Path) -> Mapping[str, Attempts]:
    """Read attempts.jsonl; runs that this comparison did not start are not in it."""
    attempts: dict[str, Attempts] = {}
    for run, record in read_attempts(root):
        before = attempts.get(run, Attempts(alone=True))
        if record.get("event") == "started":
            alone = before.alone and record.get("jobs") == 1
            attempts[run] = Attempts(alone, before.threads | {str(record.get("threads"))})
        else:
            attempts[run] = replace(before, message=printable(str(record.get("message", ""))))
    return attempts
