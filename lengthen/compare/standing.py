"""Where the runs of a comparison stand, from their files alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lengthen import settings
from lengthen.analysis import why_diverged
from lengthen.compare.file import Planned
from lengthen.config import Config
from lengthen.errors import SettingError, printable
from lengthen.monitor import SKIPS_IN_A_ROW
from lengthen.processes import attempted
from lengthen.runlog import Metrics, RunPaths, read_metrics

State = Literal["missing", "begun", "finished", "diverged"]
RUNS = "runs"  # in a comparison's directory


@dataclass(frozen=True)
class Standing:
    """One run: how far it is, and its measurements so far."""

    state: State
    metrics: Metrics
    store_id: str | None = None  # of the store that it was trained on, once it has begun


def directory(root: Path, run: Planned) -> Path:
    """Return where a run lies in a comparison's directory."""
    return root / RUNS / run.name


def standing(root: Path, run: Planned) -> Standing:
    """Read where a run stands; raises SettingError where another one lies in its place."""
    return standing_of(directory(root, run), run.config)


def standing_of(place: Path, config: Config) -> Standing:
    """Read where the run of `config` in the directory `place` stands; raises SettingError."""
    paths = RunPaths(place)
    if not paths.metrics.is_file():
        return Standing("missing", Metrics((), 0))
    there = settings.load(str(paths.config))[0]
    _must_be_the_run(config, there, paths)
    metrics = read_metrics(paths.metrics)
    return Standing(_state(config, metrics), metrics, there.data.store_id)


def _state(config: Config, metrics: Metrics) -> State:
    last = metrics.records[-1] if metrics.records else {}
    if last.get("event") == "finished":
        return "diverged" if why_diverged(metrics, config.run.on_nonfinite) else "finished"
    most = SKIPS_IN_A_ROW if config.run.on_nonfinite == "skip" else 1
    in_a_row = last.get("in_a_row")
    lost = last.get("event") == "skipped" and isinstance(in_a_row, int) and in_a_row >= most
    return "diverged" if lost else "begun"


def _must_be_the_run(config: Config, there: Config, paths: RunPaths) -> None:
    differences = settings.differences(_with_decay(config), _with_decay(there))
    for name, (asked, found) in differences.items():
        # What the file leaves open the run has filled in; a store may have moved, its id not.
        if name == "data.path" or asked in (None, "auto"):
            continue
        rule = f"{paths.root} holds a run with {found!r}"
        raise SettingError(name, rule, asked, "choose another --out, or remove that run")


def _with_decay(config: Config) -> Config:
    """Return what a run makes of a decay that is left open: it ends with the budget."""
    if config.optimizer.decay_tokens is not None or config.budget.tokens is None:
        return config
    return settings.changed(config, {"optimizer": {"decay_tokens": config.budget.tokens}})


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
