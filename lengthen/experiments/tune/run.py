"""Carries a search out: a real process for each trial, some side by side, safe to interrupt.

All that is known is read from the trials' own files, so this process may die at any moment, and the
same call comes to the same choice.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lengthen.experiments.runner import (
    Event,
    Job,
    Machine,
    Process,
    owned_attempts,
    run_jobs,
)
from lengthen.experiments.tune.problem import Problem
from lengthen.experiments.tune.search import Setting, next_settings
from lengthen.experiments.tune.trials import (
    Trial,
    TrialResult,
    drop_checkpoints,
    read_running,
    read_trial,
    repeated_tokens,
    trial_of,
)
from lengthen.run.attempts import read_attempts
from lengthen.run.metrics import JsonLines
from lengthen.util.console import ErrorStream, clock_time
from lengthen.util.errors import (
    CheckpointError,
    DataError,
    MemoryLimitError,
    SettingError,
    StoppedError,
    StorageError,
)

PASSED_ON = (DataError, CheckpointError, MemoryLimitError, StorageError)


def carry_out(
    problem: Problem, root: Path, machine: Machine, *, shown: bool = True
) -> list[TrialResult]:
    """Try settings until the search ends; return all that were begun, in that order.

    Raises BusyError where another process does so, StoppedError after a signal, when the trials
    have saved, and for a trial that crashed what it ended with.
    """
    console = ErrorStream()
    console.quiet = not shown
    with owned_attempts(root) as attempts:
        run_jobs(_Search(problem, root, machine, attempts, console), machine, root)
        trials = list(begun_trials(problem, root))
        for trial in trials:
            drop_checkpoints(root, trial)
        return [read_trial(root, trial) for trial in trials]


def begun_trials(problem: Problem, root: Path) -> Iterator[Trial]:
    """Yield the trials that this very search ever began or reused, each once."""
    names = set()
    for run, record in read_attempts(root):
        try:
            if record["search"] != _search(problem):
                continue
            trial = trial_of(problem, Setting(**record["setting"]))
        except (ValueError, KeyError, TypeError):
            continue  # no line of a tuner's
        # Another problem's trial of that setting has another name.
        if trial.name == run and trial.name not in names:
            names.add(trial.name)
            yield trial


def is_a_search(root: Path) -> bool:
    """Return whether attempts.jsonl in `root` has a line of a search, for any problem."""
    return any("search" in record for _, record in read_attempts(root))


def _search(problem: Problem) -> dict[str, object]:
    """Return what tells searches for one training apart; their trials have names of their own."""
    return {"starts": list(problem.space.starts), "aggressive": problem.space.aggressive}


@dataclass(frozen=True)
class _Search:
    """The search of the next trials (runner.Experiment)."""

    problem: Problem
    root: Path
    machine: Machine
    attempts: JsonLines
    console: Console
    losses: dict[Setting, float] = field(default_factory=dict)
    trials: dict[Setting, Trial] = field(default_factory=dict)  # that were ever wanted
    computed: dict[str, float] = field(default_factory=dict)  # seconds, before its process began
    began: float = field(default_factory=time.monotonic)

    def jobs_to_run(self, running: Sequence[Job]) -> Sequence[Job]:
        """Return what should run now, the needed one first, after a look at what is there."""
        names = {job.name for job in running}
        while True:
            settings = next_settings(self.problem.space, self.losses, self.machine.jobs)
            trials = [self._trial(setting) for setting in settings]
            decided = [one for one in trials if self._is_decided(one, is_running=one.name in names)]
            if not decided:
                return [trial.job(self.root) for trial in trials]

    def _is_decided(self, trial: Trial, *, is_running: bool) -> bool:
        """Learn what a trial comes to, if no further step can change that."""
        if not is_running:
            result = read_trial(self.root, trial)
            if result.is_decided:
                self._write(trial, "reused")
                self._learn(result, "known already: ")
            return result.is_decided
        result = read_running(self.root, trial)
        # A calm one still saves, and ends by itself.
        if result.is_decided and not result.is_calm:
            self._learn(result)
            return True
        return False

    def _trial(self, setting: Setting) -> Trial:
        # Working out how long it is walks through every step of it, so once is enough.
        if setting not in self.trials:
            self.trials[setting] = trial_of(self.problem, setting)
        return self.trials[setting]

    def _trial_of(self, job: Job) -> Trial:
        return next(trial for trial in self.trials.values() if trial.name == job.name)

    def starting(self, job: Job) -> None:
        trial = self._trial_of(job)
        self.computed[job.name] = read_running(self.root, trial).work.seconds
        repeated = repeated_tokens(self.root, trial)
        self._write(trial, "started", jobs=self.machine.jobs, repeated_tokens=repeated)

    def ended(self, process: Process, event: Event, message: str) -> None:
        trial = self._trial_of(process.job)
        if event == "busy":
            self._write(trial, "busy")
            return
        result = read_trial(self.root, trial)
        # What computed nothing that stays: starting, saving, our polling, what a kill lost.
        lived = time.monotonic() - process.began
        other = max(0.0, lived - (result.work.seconds - self.computed[trial.name]))
        self._write(trial, event, message=message, beside_seconds=round(other, 3))
        if event == "ended":
            if not result.is_decided:
                raise _crashed(process, message)
            process.log.unlink(missing_ok=True)
            if trial.setting not in self.losses:
                self._learn(result)
        elif event == "cancelled" and trial.setting not in self.losses:
            self.say(f"{trial.label}: not needed any more")
        if result.is_decided:
            drop_checkpoints(self.root, trial)

    def _learn(self, result: TrialResult, how: str = "") -> None:
        self.losses[result.trial.setting] = result.loss
        stability = result.stability
        self.say(f"{result.trial.label}: {how}{stability.verdict}, {stability.why}")

    def _write(self, trial: Trial, event: str, **facts: object) -> None:
        which = {"setting": asdict(trial.setting), "search": _search(self.problem)}
        self.attempts.write({"run": trial.name, "event": event, **which, **facts})
        # On the disk before the trial is there: trials without such a line are not a search's.
        self.attempts.sync()

    def say(self, text: str) -> None:
        spent = clock_time(time.monotonic() - self.began)
        self.console.print(escape(f"{spent}  {text}"), highlight=False, soft_wrap=True)


def _crashed(process: Process, message: str) -> Exception:
    """Return the error that a trial ended with, as one of ours where it is one of ours."""
    name, code = f"trial {process.job.name}", process.code
    if code == SettingError.exit_code:
        return SettingError(name, message)
    for kind in PASSED_ON:
        if code == kind.exit_code:
            return kind(f"{name}: {message}")
    number = -code if code < 0 else code - 128
    if number in set(signal.Signals):
        return StoppedError(number, f"{name}: {message}; the same command continues")
    return RuntimeError(f"{name}: {message}; {process.log} has the rest")
