"""Carries a comparison out: a real process for each run, some side by side, safe to interrupt.

A run that is finished is not redone, one that was interrupted goes on from its checkpoint, one that
diverged or crashed is a result and not the end. All of that is read from the runs' own files, so
this process may die at any moment.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.experiments import runner as processes
from lengthen.experiments.compare.file import Comparison, Planned
from lengthen.experiments.compare.progress import Board, board
from lengthen.experiments.runner import (
    ATTEMPTS,
    LOOK_SECONDS,
    Held,
    Job,
    Machine,
    last_line,
    machine_for,
)
from lengthen.experiments.status import directory, standing
from lengthen.run import directory as runlog
from lengthen.run.metrics import JsonLines
from lengthen.util.disk import Disk
from lengthen.util.errors import BusyError, DataError, StoppedError
from lengthen.util.signals import StopSignal

OPEN = ("missing", "begun")  # states of what is left to do


def carry_out(
    comparison: Comparison,
    root: Path,
    *,
    jobs: int | None = None,
    threads: int | None = None,
    shown: bool = True,
) -> None:
    """Bring every run of a comparison to its end.

    Raises BusyError where another process does so, SettingError and DataError for what no run
    could start with, and StoppedError after a signal, when the runs have saved.
    """
    left = [run for run in comparison.runs if standing(root, run).state in OPEN]
    if not left:
        return
    configs = _bound(left)
    machine = machine_for(configs, len(configs), jobs, threads)
    with runlog.owned(root), board(comparison, root, shown=shown) as shown_board:
        # Whoever had the directory until now may have finished some of them.
        left = [run for run in left if standing(root, run).state in OPEN]
        attempts = JsonLines(Disk(), root / ATTEMPTS)
        try:
            _Shop(root, machine, attempts, shown_board).work(left)
        finally:
            attempts.close()


def _bound(left: Sequence[Planned]) -> list[Config]:
    """Return the configurations of `left` on their stores; refuse what no verdict could be on."""
    stores = {run.config.data.path: open_store(run.config) for run in left}
    for run in left:
        store, length = stores[run.config.data.path], run.config.model.length
        if len(store.valid) <= length:
            has = f"the validation part has {len(store.valid)} tokens, needs at least {length + 1}"
            raise DataError(f"store {store.path}: {has}; prepare with a larger --valid")
    return [with_store(run.config, stores[run.config.data.path]) for run in left]


@dataclass
class _Shop:
    root: Path
    machine: Machine
    attempts: JsonLines
    board: Board
    running: list[tuple[Planned, Job]] = field(default_factory=list)
    waiting: deque[Planned] = field(default_factory=deque)
    held: Held = field(default_factory=Held)

    def work(self, runs: Sequence[Planned]) -> None:
        self.waiting.extend(runs)
        with StopSignal().listening() as stop:
            try:
                while (self.waiting or self.running) and not stop():
                    self._fill()
                    self._look()
                    time.sleep(LOOK_SECONDS)
            finally:
                self._end_all()
        if stop():
            message = f"stopped; the same command goes on in {self.root}, nothing is done twice"
            raise StoppedError(stop.number, message)

    def _fill(self) -> None:
        for _ in range(len(self.waiting)):
            if len(self.running) == self.machine.jobs:
                return
            run = self.waiting.popleft()
            if run.name in self.held:
                self.waiting.append(run)
            else:
                self._start(run)

    def _start(self, run: Planned) -> None:
        jobs, threads = self.machine.jobs, self.machine.threads
        self.attempts.write({"run": run.name, "event": "started", "jobs": jobs, "threads": threads})
        others = [job for _, job in self.running]
        job = processes.start(directory(self.root, run), run.config, self.machine, others)
        self.running.append((run, job))

    def _look(self) -> None:
        for run, job in list(self.running):
            if job.process.poll() is not None:
                self.running.remove((run, job))
                self._ended(run, job)
        self.board.update([run for run, _ in self.running])

    def _ended(self, run: Planned, job: Job) -> None:
        if job.process.returncode == BusyError.exit_code:
            if self.held.add(run.name):
                self.board.say(f"{run.name}: {last_line(job.log)}; looking again later")
            self.waiting.append(run)
            return
        message = job.message()
        self.attempts.write({"run": run.name, "event": "ended", "message": message})
        self.board.ended(run, message)

    def _end_all(self) -> None:
        if self.running:
            self.board.say("stopping: each run saves first")
        processes.stop([job for _, job in self.running])
