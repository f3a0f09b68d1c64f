"""Carries a comparison out: a real process for each run, some side by side, safe to interrupt.

A run that is finished is not redone, one that was interrupted goes on from its checkpoint, one that
diverged or crashed is a result and not the end. All of that is read from the runs' own files, so
this process may die at any moment.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lengthen import runlog
from lengthen.bind import open_store, with_store
from lengthen.compare.board import Board, board
from lengthen.compare.file import Comparison, Planned
from lengthen.compare.standing import ATTEMPTS, directory, standing
from lengthen.cost import memory
from lengthen.devices import cpu_memory_limit, gpus, usable_cores
from lengthen.disk import Disk
from lengthen.errors import BusyError, SettingError, StoppedError, UnstableError
from lengthen.loop import StopSignal
from lengthen.plan import micro_tokens_within
from lengthen.runlog import MetricsLog

LOOK_SECONDS = 0.5  # between two looks at the processes
PARENT_DIED = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Machine:
    """How much of the machine each run gets."""

    jobs: int  # runs side by side
    threads: int  # of each
    gpus: int = 0


@dataclass
class Job:
    """A run in its own process."""

    run: Planned
    slot: int
    process: subprocess.Popen[bytes]
    log: Path


def machine_for(comparison: Comparison, jobs: int | None, threads: int | None) -> Machine:
    """Return how many runs go side by side: one a GPU, else one a core, as many as memory holds.

    Raises SettingError where `jobs` or `threads` is below 1.
    """
    for name, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and value < 1:
            raise SettingError(name, "must be at least 1", value)
    devices = 0 if comparison.runs[0].config.run.device == "cpu" else gpus()
    cores = usable_cores()
    most = jobs or devices or min(cores, _fit_into_memory(comparison))
    count = min(most, len(comparison.runs))
    return Machine(count, threads or max(1, cores // count), devices)


def _fit_into_memory(comparison: Comparison) -> int:
    configs = [run.config for run in comparison.runs if run.config.model.vocabulary is not None]
    need = max(
        (memory(config.model, micro_tokens_within(config, None)) for config in configs), default=1
    )
    limit = cpu_memory_limit()
    return max(1, limit // need) if limit is not None else len(comparison.runs)


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
    running: list[Job] = field(default_factory=list)

    def work(self, runs: Sequence[Planned]) -> None:
        waiting = list(reversed(runs))
        with StopSignal().listening() as stop:
            while (waiting or self.running) and not stop():
                while waiting and len(self.running) < self.machine.jobs:
                    self.running.append(self._start(waiting.pop()))
                self._look()
                time.sleep(LOOK_SECONDS)
            if stop():
                self._stop(stop)

    def _start(self, run: Planned) -> Job:
        place = directory(self.root, run)
        place.parent.mkdir(parents=True, exist_ok=True)
        config, log = place.with_name(place.name + ".toml"), place.with_name(place.name + ".log")
        Disk().replace_file(config, run.config.to_toml().encode())
        words = [sys.executable, "-m", "lengthen", "train", str(config), "--out", str(place)]
        slot = min(set(range(self.machine.jobs)) - {job.slot for job in self.running})
        jobs, threads = self.machine.jobs, self.machine.threads
        self.attempts.write({"run": run.name, "event": "started", "jobs": jobs, "threads": threads})
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*words, "--resume", "auto", "--quiet"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment(slot),
                # A signal to us is passed on by us: each run then saves, and once.
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        return Job(run, slot, process, log)

    def _environment(self, slot: int) -> dict[str, str]:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(self.machine.threads))}
        if self.machine.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot % self.machine.gpus)
        return environment

    def _look(self) -> None:
        for job in list(self.running):
            if job.process.poll() is not None:
                self.running.remove(job)
                self._ended(job)
        self.board.update([job.run for job in self.running])

    def _ended(self, job: Job) -> None:
        code = job.process.returncode
        if code == BusyError.exit_code:
            # An earlier comparison was killed, and its run still saves: wait for it.
            time.sleep(LOOK_SECONDS)
            self.running.append(self._start(job.run))
            return
        message = "" if code == 0 else _last_line(job.log) or f"ended with exit code {code}"
        self.attempts.write({"run": job.run.name, "event": "ended", "message": message})
        if code in (0, UnstableError.exit_code):
            job.log.unlink(missing_ok=True)
        self.board.ended(job.run, message)

    def _stop(self, stop: StopSignal) -> None:
        self.board.say("stopping: each run saves first")
        for job in self.running:
            job.process.terminate()
        for job in self.running:
            job.process.wait()
        message = f"stopped; the same command goes on in {self.root}, nothing is done twice"
        raise StoppedError(stop.number, message)


def _end_with_parent() -> None:
    # The kernel tells the run when we die, even by SIGKILL; it saves and ends.
    ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGTERM)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.startswith("lengthen: ")]
    return (said or lines or [""])[-1].removeprefix("lengthen: ")
