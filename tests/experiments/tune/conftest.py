"""A tiny training whose start and duration are asked for, and a search without runner."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lengthen.cli.main import main
from lengthen.config.load import load
from lengthen.config.schema import Config, Tables
from lengthen.core.schedule import crossed, steps
from lengthen.data.store import Store
from lengthen.experiments import runner
from lengthen.experiments.runner import Process
from lengthen.experiments.tune.problem import Problem, define_problem
from lengthen.experiments.tune.search import Setting, next_step
from lengthen.experiments.tune.trials import Trial, read_trial, trial_of
from lengthen.run.attempts import ATTEMPTS
from lengthen.run.directory import RunPaths
from tests.conftest import Configure

Asked = Callable[..., Problem]
ROOM: Tables = {"budget": {"tokens": 400_000}}


@pytest.fixture
def tunable(configured: Configure) -> Configure:
    """Give a configuration to tune, with any tables changed: a trial of it has 12 steps."""
    return configured


@pytest.fixture
def asked(tunable: Configure, store: Path) -> Asked:
    """Ask for a tiny training's start and duration, with any of its tables changed."""

    def problem(
        *, starts: tuple[int, ...] = (), aggressive: bool = False, **tables: Tables
    ) -> Problem:
        return define_problem(
            tunable(**tables),
            Store.open(store),
            starts=starts,
            judge_tokens=512,
            aggressive=aggressive,
        )

    return problem


def search_here(problem: Problem, root: Path, carry: Callable[[Trial], None]) -> list[Trial]:
    """Carry a search out in this process; return its trials, of which the last is the end."""
    known: dict[Setting, float] = {}
    trials: list[Trial] = []
    while isinstance(setting := next_step(problem.space, known), Setting):
        trials.append(trial_of(problem, setting))
        carry(trials[-1])
        seen = read_trial(root, trials[-1])
        assert seen.is_decided
        known[setting] = seen.loss
    return trials


def own(root: Path) -> None:
    """Say in attempts.jsonl that the trials in `root` are a search's, of no problem asked here."""
    root.mkdir(exist_ok=True)
    record = {"run": "another", "event": "started", "setting": {}, "search": {}}
    (root / ATTEMPTS).write_text(json.dumps(record) + "\n", encoding="utf-8")


def plant(
    root: Path,
    trial: Trial,
    *,
    calm: bool,
    seconds: float = 0.5,
    threads: int | None = None,
    falls: float = 0.01,
) -> None:
    """Write the files that a trial leaves: its loss falls, or jumps at the second evaluation."""
    paths = RunPaths(trial.directory(root))
    paths.root.mkdir(parents=True)
    paths.config.write_text(trial.config.to_toml(), encoding="utf-8")
    if threads is not None:
        paths.environment.write_text(json.dumps({"threads": threads}), encoding="utf-8")
    records: list[dict[str, Any]] = []
    when, before, looks = trial.config.evaluation, 0, 0
    for counters, shape in steps(trial.config.schedule()):
        step = counters.step + 1
        tokens = counters.tokens + shape.tokens
        moment = {"step": step, "tokens": tokens, "seconds": seconds * step}
        loss = 5.0 - falls * step if calm or looks == 0 else 6.0
        size = {"length": shape.length, "rows": shape.rows, "lr": shape.learning_rate}
        records.append({"kind": "step", **moment, **size, "loss": loss, "loss_ratio": None})
        due = crossed(when.every_steps or 0, counters.step, step)
        due |= crossed(when.every_tokens or 0, before, tokens)
        if not due and step < trial.steps:
            continue
        before, looks = tokens, looks + 1
        side = {"side_tokens": when.tokens, "side_seconds": 0.25}
        perplexity = {"loss": loss, "perplexity": math.exp(loss)}
        records.append({"kind": "eval", **moment, **perplexity, **side})
        if looks == 2 and not calm:
            break
    if calm:
        records.append({"kind": "event", "event": "finished", "step": trial.steps})
    text = "".join(json.dumps(record) + "\n" for record in records)
    paths.metrics.write_text(text, encoding="utf-8")


def written(config: Config, folder: Path) -> str:
    """Write a configuration as a file; return its name."""
    path = folder / "asked.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    return str(path)


def no_process(*_: object) -> Process:
    raise AssertionError("a trial was started")


@pytest.fixture
def tuned(
    tunable: Configure, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> "Tuned":
    """Plant the trials of a search and let the command read them, which starts none."""
    monkeypatch.setattr(runner, "start", no_process)
    return Tuned(tunable, asked, tmp_path)


class Tuned:
    """A search over planted trials."""

    def __init__(self, tunable: Configure, asked: Asked, folder: Path) -> None:
        self.tunable, self.asked, self.folder, self.root = tunable, asked, folder, folder / "out"

    def __call__(
        self, calm: Sequence[Setting], *words: str, code: int = 0, tables: Tables = ROOM
    ) -> list[Trial]:
        aggressive = "--aggressive" in words
        self.problem: Problem = self.asked(aggressive=aggressive, **tables)

        trials = search_here(self.problem, self.root, self.planting(calm))
        if not (self.root / ATTEMPTS).exists():
            own(self.root)
        assert self.again(*words, tables=tables) == code
        return trials

    def planting(self, calm: Sequence[Setting]) -> Callable[[Trial], None]:
        """Give what plants a trial, unless it is there from an earlier search."""

        def carry(trial: Trial) -> None:
            if not trial.directory(self.root).exists():
                is_calm = any(covers(one, trial.setting) for one in calm)
                plant(self.root, trial, calm=is_calm)

        return carry

    def again(self, *words: str, tables: Tables = ROOM) -> int:
        file = written(self.tunable(**tables), self.folder)
        base = ["tune", file, "--out", str(self.root), "--judge-tokens", "512", "--jobs", "1"]
        return main([*base, *words])

    @property
    def facts(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.root / "tune.json").read_text())
        return told

    @property
    def config(self) -> Config:
        return load(str(self.root / "tuned.toml"))[0]


def covers(largest: Setting, setting: Setting) -> bool:
    """Tell whether a setting is as calm as the largest calm one at its start."""
    one, other = ((s.multiple, s.rate, s.rows) for s in (setting, largest))
    return setting.start == largest.start and all(a <= b for a, b in zip(one, other, strict=True))
