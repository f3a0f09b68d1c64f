"""Carries a comparison out: a real process for each run, some side by side, safe to interrupt.

A run that is finished is not redone, one that was interrupted goes on from its checkpoint, one that
diverged or crashed is a result and not the end. All of that is read from the runs' own files, so
this process may die at any moment.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lengthen import processes, runlog
from lengthen.bind import open_store, with_store
from lengthen.compare.board import Board, board
from lengthen.compare.file import Comparison, Planned
from lengthen.compare.standing import ATTEMPTS, directory, standing
from lengthen.disk import Disk
from lengthen.errors import BusyError, StoppedError
from lengthen.loop import StopSignal
from lengthen.processes import LOOK_SECONDS, Job, Machine
from lengthen.runlog import MetricsLog


def machine_for(comparison: Comparison, jobs: int | None, threads: int | None) -> Machine:
    """Return what each run of a comparison gets; raises SettingError (processes.machine_for)."""
    configs = [run.config for run in comparison.runs]
    return processes.machine_for(configs, len(configs), jobs, threads)


def carry_out(comparison: Comparison, root: Path, machine: Machine, *, shown: bool = True) -> None:
    """Bring every run of a comparison to its end.

    Raises BusyError where another process does so, SettingError and DataError for what no run
    could start with, and StoppedError after a signal, when the runs have saved.
    """
    left = [run for run in comparison.runs if _is_open(root, run)]
    if not left:
        return
    store = open_store(left[0].config)
    for run in left:
        with_store(run.config, store)
    with runlog.owned(root), board(comparison, root, shown=shown) as shown_board:
        attempts = MetricsLog(Disk(), root / ATTEMPTS)
        try:
            _Shop(root, machine, attempts, shown_board).work(left)
        finally:
            attempts.close()


def _is_open(root: Path, run: Planned) -> bool:
    return standing(root, run).state in ("missing", "begun")


@dataclass
class _Shop:
    root: Path
    machine: Machine
    attempts: MetricsLog
    board: Board
    running: list[tuple[Planned, Job]] = field(default_factory=list)

    def work(self, runs: Sequence[Planned]) -> None:
        waiting = list(reversed(runs))
        with StopSignal().listening() as stop:
            while (waiting or self.running) and not stop():
                while waiting and len(self.running) < self.machine.jobs:
                    self._start(waiting.pop())
                self._look()
                time.sleep(LOOK_SECONDS)
            if stop():
                self._stop(stop)

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
            # An earlier comparison was killed, and its run still saves: wait for it.
            time.sleep(LOOK_SECONDS)
            self._start(run)
            return
        message = job.message()
        self.attempts.write({"run": run.name, "event": "ended", "message": message})
        self.board.ended(run, message)

    def _stop(self, stop: StopSignal) -> None:
        self.board.say("stopping: each run saves first")
        processes.stop([job for _, job in self.running])
        message = f"stopped; the same command goes on in {self.root}, nothing is done twice"
        raise StoppedError(stop.number, message)
