"""Carries a search out: a real process for each trial, some side by side, safe to interrupt.

All that is known is read from the trials' own files, so this process may die at any moment, and the
same call comes to the same choice.
"""

import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lengthen.experiments import runner as processes
from lengthen.experiments.runner import ATTEMPTS, LOOK_SECONDS, Held, Job, Machine, last_line
from lengthen.experiments.tune.problem import Question
from lengthen.experiments.tune.search import Setting, tries
from lengthen.experiments.tune.trials import (
    Seen,
    Trial,
    Work,
    drop_checkpoints,
    place_of,
    read,
    read_running,
    redone,
    trial_of,
)
from lengthen.run import directory as runlog
from lengthen.run.metrics import JsonLines
from lengthen.util.console import ErrorStream, clock_time
from lengthen.util.disk import Disk
from lengthen.util.errors import (
    BusyError,
    CheckpointError,
    DataError,
    MemoryLimitError,
    SettingError,
    StoppedError,
    StorageError,
)
from lengthen.util.signals import StopSignal

PASSED_ON = (DataError, CheckpointError, MemoryLimitError, StorageError)


def carry_out(
    question: Question, root: Path, machine: Machine, *, shown: bool = True
) -> dict[Setting, Seen]:
    """Try settings until the search ends; return all that were begun, in that order.

    Raises BusyError where another process does so, StoppedError after a signal, when the trials
    have saved, and for a trial that crashed what it ended with.
    """
    console = ErrorStream()
    console.quiet = not shown
    with runlog.owned(root):
        attempts = JsonLines(Disk(), root / ATTEMPTS)
        try:
            _Shop(question, root, machine, attempts, console).work()
        finally:
            attempts.close()
        trials = list(begun(question, root))
        for trial in trials:
            drop_checkpoints(root, trial)
        return {trial.setting: read(root, trial) for trial in trials}


def begun(question: Question, root: Path) -> Iterator[Trial]:
    """Yield the trials that this very search ever began or found here, each once."""
    names = set()
    for run, record in processes.attempted(root):
        try:
            if record["search"] != _search(question):
                continue
            trial = trial_of(question, Setting(**record["setting"]))
        except (ValueError, KeyError, TypeError):
            continue  # no line of a tuner's
        # Another question's trial of that setting has another name.
        if trial.name == run and trial.name not in names:
            names.add(trial.name)
            yield trial


def is_a_searchs(root: Path) -> bool:
    """Return whether attempts.jsonl in `root` has a line of a search, of any question."""
    return any("search" in record for _, record in processes.attempted(root))


def _search(question: Question) -> dict[str, object]:
    """Return what tells searches for one training apart; their trials have names of their own."""
    return {"starts": list(question.space.starts), "aggressive": question.space.aggressive}


@dataclass(frozen=True)
class _Attempt:
    """A process that works on a trial."""

    job: Job
    kept: float  # seconds of computing that it began with
    began: float = field(default_factory=time.monotonic)

    def beside(self, seen: Seen) -> float:
        """Return the seconds until now that were no computing: starting, saving, our polling."""
        return max(0.0, time.monotonic() - self.began - (seen.work.seconds - self.kept))


@dataclass
class _Shop:
    question: Question
    root: Path
    machine: Machine
    attempts: JsonLines
    console: Console
    known: dict[Setting, float] = field(default_factory=dict)
    running: dict[Setting, _Attempt] = field(default_factory=dict)
    trials: dict[Setting, Trial] = field(default_factory=dict)
    held: Held = field(default_factory=Held)
    began: float = field(default_factory=time.monotonic)

    def work(self) -> None:
        with StopSignal().listening() as stop:
            try:
                while (wanted := self._wanted()) and not stop():
                    self._match(wanted)
                    time.sleep(LOOK_SECONDS)
                    self._look()
            finally:
                processes.stop([attempt.job for attempt in self.running.values()])
                for setting, attempt in self.running.items():
                    self._write_end(setting, attempt, "stopped")
            if wanted:
                message = f"stopped; the same command goes on in {self.root}, nothing is redone"
                raise StoppedError(stop.number, message)

    def _trial(self, setting: Setting) -> Trial:
        # Working out how long it is walks through every step of it, so once is enough.
        if setting not in self.trials:
            self.trials[setting] = trial_of(self.question, setting)
        return self.trials[setting]

    def _wanted(self) -> list[Setting]:
        """Return what should run now, the needed one first, after a look at what is there."""
        while True:
            wanted = tries(self.question.space, self.known, self.machine.jobs)
            idle = [setting for setting in wanted if setting not in self.running]
            decided = [seen for seen in map(self._read, idle) if seen.is_decided]
            if not decided:
                return wanted
            for seen in decided:
                self._write(seen.trial, "found")
                self._learn(seen, "known already: ")

    def _read(self, setting: Setting) -> Seen:
        return read(self.root, self._trial(setting))

    def _match(self, wanted: list[Setting]) -> None:
        """Let what is wanted run, and nothing else."""
        for setting in [setting for setting in self.running if setting not in wanted]:
            attempt = self.running.pop(setting)
            processes.stop([attempt.job])
            self._write_end(setting, attempt, "stopped")
            attempt.job.log.unlink(missing_ok=True)
            self._say(f"{self._trial(setting).label}: not needed any more")
        for setting in wanted:
            if setting not in self.running and self._trial(setting).name not in self.held:
                self._start(setting)

    def _start(self, setting: Setting) -> None:
        trial = self._trial(setting)
        again = redone(self.root, trial)
        kept = read_running(self.root, trial).work.seconds - again.seconds
        self._write(trial, "started", **({"redone": asdict(again)} if again != Work() else {}))
        place, others = place_of(self.root, trial), [one.job for one in self.running.values()]
        job = processes.start(place, trial.config, self.machine, others)
        self.running[setting] = _Attempt(job, kept)

    def _look(self) -> None:
        for setting, attempt in list(self.running.items()):
            if attempt.job.process.poll() is not None:
                del self.running[setting]
                self._ended(setting, attempt)
                continue
            seen = read_running(self.root, self._trial(setting))
            if seen.judgement.word == "not calm":
                del self.running[setting]
                processes.stop([attempt.job])
                self._ended(setting, attempt)

    def _ended(self, setting: Setting, attempt: _Attempt) -> None:
        job = attempt.job
        if job.process.returncode == BusyError.exit_code:
            trial = self._trial(setting)
            self._write(trial, "held")
            if self.held.add(trial.name):
                self._say(f"{trial.label}: {last_line(job.log)}; looking again later")
            return
        message = job.message()
        seen = self._write_end(setting, attempt, "ended", message)
        if not seen.is_decided:
            raise _crashed(seen.trial, job, message)
        job.log.unlink(missing_ok=True)
        drop_checkpoints(self.root, seen.trial)
        self._learn(seen)

    def _learn(self, seen: Seen, how: str = "") -> None:
        self.known[seen.trial.setting] = seen.loss
        judgement = seen.judgement
        self._say(f"{seen.trial.label}: {how}{judgement.word}, {judgement.why}")

    def _write_end(
        self, setting: Setting, attempt: _Attempt, event: str, message: str = ""
    ) -> Seen:
        seen = self._read(setting)
        seconds = round(attempt.beside(seen), 3)
        self._write(seen.trial, event, message=message, beside_seconds=seconds)
        return seen

    def _write(self, trial: Trial, event: str, **facts: object) -> None:
        which = {"setting": asdict(trial.setting), "search": _search(self.question)}
        self.attempts.write({"run": trial.name, "event": event, **which, **facts})
        # On the disk before the trial is there: trials without such a line are not a search's.
        self.attempts.sync()

    def _say(self, text: str) -> None:
        spent = clock_time(time.monotonic() - self.began)
        self.console.print(escape(f"{spent}  {text}"), highlight=False, soft_wrap=True)


def _crashed(trial: Trial, job: Job, message: str) -> Exception:
    """Return the error that a trial ended with, as one of ours where it is one of ours."""
    code, what = job.process.returncode, f"trial {trial.name}: {message}"
    if code == SettingError.exit_code:
        return SettingError(f"trial {trial.name}", message)
    for kind in PASSED_ON:
        if code == kind.exit_code:
            return kind(what)
    number = -code if code < 0 else code - 128
    if number in set(signal.Signals):
        return StoppedError(number, f"{what}; the same command goes on")
    return RuntimeError(f"{what}; {job.log} has the rest")
