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
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lengthen import runlog
from lengthen.bind import open_store, with_store
from lengthen.compare.board import Board, board
from lengthen.compare.file import Comparison, Planned
from lengthen.compare.standing import ATTEMPTS, directory, standing
from lengthen.config import Config
from lengthen.cost import memory
from lengthen.devices import cpu_memory_limit, gpus, usable_cores
from lengthen.disk import Disk
from lengthen.errors import BusyError, DataError, SettingError, StoppedError, UnstableError
from lengthen.loop import StopSignal
from lengthen.plan import micro_tokens_within
from lengthen.runlog import MetricsLog, RunPaths
from lengthen.settings import load
from lengthen.tables import printable

LOOK_SECONDS = 0.5  # between two looks at the processes
BUSY_SECONDS = 5.0  # until a run that somebody else has is tried again
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


def machine_for(configs: Sequence[Config], jobs: int | None, threads: int | None) -> Machine:
    """Return how many runs go side by side: one a GPU, else one a core, as many as memory holds.

    Raises SettingError where `jobs` or `threads` is below 1.
    """
    for name, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and value < 1:
            raise SettingError(name, "must be at least 1", value)
    devices = 0 if configs[0].run.device == "cpu" else gpus()
    cores = usable_cores()
    most = jobs or devices or min(cores, _fit_into_memory(configs))
    count = min(most, len(configs))
    return Machine(count, threads or max(1, cores // count), devices)


def _fit_into_memory(configs: Sequence[Config]) -> int:
    shapes = {config.model: config for config in configs}.values()
    need = max(memory(config.model, micro_tokens_within(config, None)) for config in shapes)
    return max(1, cpu_memory_limit() // need)


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
    left = [run for run in comparison.runs if _is_open(root, run)]
    if not left:
        return
    configs = _bound(comparison, root, left)
    machine = machine_for(configs, jobs, threads)
    with runlog.owned(root), board(comparison, root, shown=shown) as shown_board:
        # Whoever had the directory until now may have finished some of them.
        left = [run for run in left if _is_open(root, run)]
        attempts = MetricsLog(Disk(), root / ATTEMPTS)
        try:
            _Shop(root, machine, attempts, shown_board).work(left)
        finally:
            attempts.close()


def _bound(comparison: Comparison, root: Path, left: Sequence[Planned]) -> list[Config]:
    """Return the configurations of `left` on their stores; refuse what no verdict could be on."""
    stores = {run.config.data.path: open_store(run.config) for run in left}
    for run in comparison.runs:
        store, there = stores.get(run.config.data.path), RunPaths(directory(root, run)).config
        found = load(str(there))[0].data.store_id if there.is_file() else None
        if store is not None and found not in (None, store.id):
            rule = f"{there.parent} was trained on store {found}, this one is {store.id}"
            raise SettingError("data.path", rule, None, "choose another --out")
    for run in left:
        store, length = stores[run.config.data.path], run.config.model.length
        if len(store.valid) <= length:
            has = f"the validation part has {len(store.valid)} tokens, needs at least {length + 1}"
            raise DataError(f"store {store.path}: {has}; prepare with a larger --valid")
    return [with_store(run.config, stores[run.config.data.path]) for run in left]


def _is_open(root: Path, run: Planned) -> bool:
    return standing(root, run).state in ("missing", "begun")


@dataclass
class _Shop:
    root: Path
    machine: Machine
    attempts: MetricsLog
    board: Board
    running: list[Job] = field(default_factory=list)
    waiting: deque[Planned] = field(default_factory=deque)
    busy: dict[str, float] = field(default_factory=dict)  # held by others -> when to look again

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
            if self.busy.get(run.name, 0.0) > time.monotonic():
                self.waiting.append(run)
            else:
                self.running.append(self._start(run))

    def _start(self, run: Planned) -> Job:
        place = directory(self.root, run)
        place.parent.mkdir(parents=True, exist_ok=True)
        config, log = place.with_name(place.name + ".toml"), place.with_name(place.name + ".log")
        Disk().replace_file(config, run.config.to_toml().encode())
        # -P: a module of the user's in the working directory must not stand in for a package.
        words = [sys.executable, "-P", "-m", "lengthen", "train", str(config), "--out", str(place)]
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
                preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
            )
        return Job(run, slot, process, log)

    def _environment(self, slot: int) -> dict[str, str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.machine.threads))
        environment = {**os.environ, **threads}
        if self.machine.gpus:
            visible = visible_gpus(self.machine.gpus)
            environment["CUDA_VISIBLE_DEVICES"] = visible[slot % len(visible)]
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
            # An earlier comparison was killed and its run still saves, or somebody resumes it.
            if job.run.name not in self.busy:
                self.board.say(f"{job.run.name}: {_last_line(job.log)}; looking again later")
            self.busy[job.run.name] = time.monotonic() + BUSY_SECONDS
            self.waiting.append(job.run)
            return
        message = "" if code == 0 else _why(code, job.log)
        self.attempts.write({"run": job.run.name, "event": "ended", "message": message})
        if code in (0, UnstableError.exit_code):
            job.log.unlink(missing_ok=True)
        self.board.ended(job.run, message)

    def _end_all(self) -> None:
        if self.running:
            self.board.say("stopping: each run saves first")
        for job in self.running:
            job.process.terminate()
        for job in self.running:
            job.process.wait()


def visible_gpus(count: int) -> list[str]:
    """Return the names of the GPUs that this process may use, those that a user hid left out."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.split(",") if given else [str(number) for number in range(count)]


def _end_with_parent() -> Callable[[], None]:
    # The kernel tells the run when we die, even by SIGKILL; it saves and ends. The library is
    # loaded before the fork, behind which little is safe.
    tell = ctypes.CDLL(None).prctl
    return lambda: tell(PARENT_DIED, signal.SIGTERM)


def _why(code: int, log: Path) -> str:
    """Say in one line why a run ended; where it did not say so itself, where its output is."""
    if code in (1, *range(-64, 0)):
        return f"ended with exit code {code}: {_last_line(log)}; all that it said is in {log}"
    return _last_line(log) or f"ended with exit code {code}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.startswith("lengthen: ") and "is a bug" not in line]
    return printable((said or lines or [""])[-1].removeprefix("lengthen: "))
