"""Ordinary `lengthen train` runs, or commands, each in a process of its own, several side by side.

Whoever starts them may die at any moment: they save and end, and the same call resumes them.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from lengthen.config.schema import Config
from lengthen.distributed.device import SHARED_OUT, cards, usable_cores
from lengthen.distributed.memory import cpu_memory_limit, memory_of, micro_tokens_within
from lengthen.experiments.command import Command
from lengthen.run.attempts import ATTEMPTS
from lengthen.run.directory import owned
from lengthen.run.metrics import JsonLines
from lengthen.util.disk import Disk
from lengthen.util.errors import BusyError, SettingError, StoppedError, UnstableError, printable
from lengthen.util.signals import StopSignal, end_with_parent

LOOK_SECONDS = 0.5  # between two looks at the processes
BUSY_SECONDS = 5.0  # until a run that somebody else has is tried again


@dataclass(frozen=True)
class Machine:
    """How much of the machine each run gets."""

    jobs: int  # runs side by side
    threads: int  # of each
    gpus: int = 0  # to be shared out, one to each


def machine_for(
    configs: Sequence[Config | Command], most: int, jobs: int | None, threads: int | None
) -> Machine:
    """Return how many runs go side by side: one a GPU, else one a core, as many as memory holds.

    Of commands one a GPU, else one; a single one has every GPU. There are never more than `most`.
    The configurations have the vocabulary of their store. Raises
    SettingError where `jobs` or `threads` is below 1.
    """
    for name, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and value < 1:
            raise SettingError(name, "must be at least 1", value)
    ours = [config for config in configs if isinstance(config, Config)]
    device = ours[0].run.device if ours else "auto"
    devices = cards(device)
    cores = usable_cores()
    count = min(jobs or devices or min(cores, _fit_into_memory(ours)), most)
    shared = devices if device in SHARED_OUT and (ours or count > 1) else 0
    return Machine(count, threads or max(1, cores // count), shared)


def _fit_into_memory(configs: Sequence[Config]) -> int:
    if not configs:  # commands, whose memory nobody knows
        return 1
    need = max(memory_of(config, _micro_tokens(config)) for config in configs)
    return max(1, cpu_memory_limit() // need)


def _micro_tokens(config: Config) -> int:
    if (given := config.batch.micro_tokens) == "auto":
        return micro_tokens_within(config, None)
    return min(given, config.batch.rows * config.model.length)  # of which a step has no more


@dataclass(frozen=True)
class Job:
    """A run that is wanted: `lengthen train` with `config`, or a command, into `directory`."""

    name: str  # in attempts.jsonl
    label: str  # for people
    directory: Path
    config: Config | Command


# By itself; as it is not wanted any more; as the experiment stops; as another process has the run.
Event = Literal["ended", "cancelled", "stopped", "busy"]


@dataclass(frozen=True)
class Process:
    """A job's process."""

    job: Job
    slot: int  # which share of the machine it has
    popen: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)

    @property
    def log(self) -> Path:
        """What it prints."""
        return _beside(self.job.directory, "log")

    @property
    def code(self) -> int:
        """Its exit code, once it has ended."""
        return int(self.popen.returncode)


class Experiment(Protocol):
    """Decides which runs are trained, and keeps what came of them."""

    def jobs_to_run(self, running: Sequence[Job]) -> Sequence[Job]:
        """Return the jobs that should run, the most needed first; none ends the experiment.

        Called about twice a second; a running job that is not in it is stopped.
        """

    def starting(self, job: Job) -> None:
        """Take note that a job is about to start."""

    def ended(self, process: Process, event: Event, message: str) -> None:
        """Take note of how a job ended; what this raises ends the experiment.

        `message` is the error of one that ended by itself, empty where it came to its end. Its log
        is there if it says more.
        """

    def say(self, text: str) -> None:
        """Print a line that stays."""


def run_jobs(experiment: Experiment, machine: Machine, root: Path) -> None:
    """Train what `experiment` wants until it wants nothing more.

    Raises StoppedError after a signal, when every run has saved. `root` is for its message.
    """
    pool = _Pool(experiment, machine)
    with StopSignal().listening() as stop:
        try:
            while (wanted := experiment.jobs_to_run(pool.jobs)) and not stop():
                pool.stop_all_but(wanted, "cancelled")
                pool.start(wanted)
                time.sleep(LOOK_SECONDS)
                pool.take_ends()
        finally:
            if stop() and pool.jobs:
                experiment.say("stopping: each run saves first")
            pool.stop_all_but((), "stopped")
    if wanted:
        message = f"stopped; the same command continues in {root}, nothing is done twice"
        raise StoppedError(stop.number, message)


@dataclass(frozen=True)
class _Pool:
    """The processes that run now."""

    experiment: Experiment
    machine: Machine
    running: list[Process] = field(default_factory=list)
    retry_at: dict[str, float] = field(default_factory=dict)  # of runs that another process has

    @property
    def jobs(self) -> list[Job]:
        return [process.job for process in self.running]

    def start(self, wanted: Sequence[Job]) -> None:
        """Start what is wanted and does not run yet, while there is room."""
        names = {job.name for job in self.jobs}
        for job in wanted:
            if len(self.running) == self.machine.jobs:
                return
            if job.name not in names and self.retry_at.get(job.name, 0.0) <= time.monotonic():
                self.experiment.starting(job)
                slots = set(range(self.machine.jobs)) - {one.slot for one in self.running}
                self.running.append(start(job, self.machine, min(slots)))

    def stop_all_but(self, wanted: Sequence[Job], event: Event) -> None:
        """Let what is not wanted save and end, and wait until it has."""
        names = {job.name for job in wanted}
        unwanted = [process for process in self.running if process.job.name not in names]
        for process in unwanted:
            process.popen.terminate()
        for process in unwanted:
            process.popen.wait()
            self.running.remove(process)
        for process in unwanted:
            process.log.unlink(missing_ok=True)
            self.experiment.ended(process, event, "")

    def take_ends(self) -> None:
        """Pass on which processes have ended since."""
        for process in [one for one in self.running if one.popen.poll() is not None]:
            self.running.remove(process)
            if process.code == BusyError.exit_code:
                self._retry_later(process)
                continue
            message = "" if process.code == 0 else _why(process.code, process.log)
            if process.code in (0, UnstableError.exit_code):
                process.log.unlink(missing_ok=True)
            self.experiment.ended(process, "ended", message)

    def _retry_later(self, process: Process) -> None:
        job = process.job
        if job.name not in self.retry_at:
            self.experiment.say(f"{job.label}: {last_line(process.log)}; trying again later")
        self.retry_at[job.name] = time.monotonic() + BUSY_SECONDS
        self.experiment.ended(process, "busy", "")


def start(job: Job, machine: Machine, slot: int) -> Process:
    """Start a job's run, or resume the one that is in its directory.

    Its configuration and what it prints lie beside that.
    """
    command = laid_out(job)
    with _beside(job.directory, "log").open("wb") as output:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(machine, slot),
            # A signal to us is passed on by us: each run then saves, and once.
            start_new_session=True,
            preexec_fn=end_with_parent(),  # each run then saves and ends, too
        )
    return Process(job, slot, popen)


def laid_out(job: Job) -> list[str]:
    """Write a job's configuration beside its directory; return the command that trains it there.

    Given again, the command goes on with the run.
    """
    job.directory.parent.mkdir(parents=True, exist_ok=True)
    file = config_beside(job.directory)
    Disk().replace_file(file, job.config.to_toml().encode())
    words = ["lengthen", "train", str(file), "--out", str(job.directory)]
    words += ["--resume", "auto", "--quiet"]
    if isinstance(job.config, Command):
        words = ["lengthen.experiments.run_command", str(file), str(job.directory)]
    # -P: a module of the user's in the working directory must not stand in for a package.
    return [sys.executable, "-P", "-m", *words]


def config_beside(directory: Path) -> Path:
    """Return the file with the configuration that a run's last process was started with."""
    return _beside(directory, "toml")


def _beside(directory: Path, suffix: str) -> Path:
    return directory.with_name(f"{directory.name}.{suffix}")


@contextmanager
def owned_attempts(root: Path) -> Iterator[JsonLines]:
    """Own an experiment's directory and write its attempts.jsonl; raises BusyError."""
    with owned(root):
        log = JsonLines(Disk(), root / ATTEMPTS)
        try:
            yield log
        finally:
            log.close()


def _environment(machine: Machine, slot: int) -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(machine.threads))
    environment = {**os.environ, **threads}
    if machine.gpus:
        visible = visible_gpus(machine.gpus)
        environment["CUDA_VISIBLE_DEVICES"] = visible[slot % len(visible)]
    return environment


def visible_gpus(count: int) -> list[str]:
    """Return the names of the GPUs that this process may use, those that a user hid left out."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.split(",") if given else [str(number) for number in range(count)]


def _why(code: int, log: Path) -> str:
    """Say in one line why a run ended; where it did not say so itself, where its output is."""
    if code in (1, *range(-64, 0)):
        return f"ended with exit code {code}: {last_line(log)}; all that it printed is in {log}"
    return last_line(log) or f"ended with exit code {code}"


def last_line(log: Path) -> str:
    """Return the last error in what a run has printed, else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("lengthen: ") and "is a bug" not in line]
    return printable((errors or lines or [""])[-1].removeprefix("lengthen: "))
