"""Ordinary `lengthen train` runs, each in a process of its own, several side by side.

Whoever starts them may die at any moment: they save and end, and the same call goes on with them.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lengthen.config.schema import Config
from lengthen.distributed.device import SHARED_OUT, cards, usable_cores
from lengthen.distributed.memory import cpu_memory_limit, memory_of, micro_tokens_within
from lengthen.util.disk import Disk
from lengthen.util.errors import SettingError, UnstableError, printable

ATTEMPTS = "attempts.jsonl"  # beside the runs: which were started, and how they ended
LOOK_SECONDS = 0.5  # between two looks at the processes
BUSY_SECONDS = 5.0  # until a run that somebody else has is tried again
PARENT_DIED = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Machine:
    """How much of the machine each run gets."""

    jobs: int  # runs side by side
    threads: int  # of each
    gpus: int = 0  # to be shared out, one to each


def machine_for(
    configs: Sequence[Config], most: int, jobs: int | None, threads: int | None
) -> Machine:
    """Return how many runs go side by side: one a GPU, else one a core, as many as memory holds.

    There are never more than `most`. The configurations have the vocabulary of their store. Raises
    SettingError where `jobs` or `threads` is below 1.
    """
    for name, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and value < 1:
            raise SettingError(name, "must be at least 1", value)
    device = configs[0].run.device
    devices = cards(device)
    cores = usable_cores()
    count = min(jobs or devices or min(cores, _fit_into_memory(configs)), most)
    shared = devices if device in SHARED_OUT else 0
    return Machine(count, threads or max(1, cores // count), shared)


def _fit_into_memory(configs: Sequence[Config]) -> int:
    shapes = {(config.model, config.run.precision): config for config in configs}.values()
    need = max(memory_of(config, micro_tokens_within(config, None)) for config in shapes)
    return max(1, cpu_memory_limit() // need)


@dataclass
class Job:
    """A run in its own process."""

    slot: int
    process: subprocess.Popen[bytes]
    log: Path  # what it prints

    def message(self) -> str:
        """Return the error that ended it, empty where it came to its end; its log is then gone.

        The log of a run that crashed stays.
        """
        code = self.process.returncode
        said = "" if code == 0 else _why(code, self.log)
        if code in (0, UnstableError.exit_code):
            self.log.unlink(missing_ok=True)
        return said


def start(place: Path, config: Config, machine: Machine, others: Iterable[Job]) -> Job:
    """Start the run of `config` in the directory `place`, or go on with the one that is there.

    `others` are those that run already, so that each gets a GPU of its own. Its configuration and
    what it prints lie beside it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    file, log = place.with_name(place.name + ".toml"), place.with_name(place.name + ".log")
    Disk().replace_file(file, config.to_toml().encode())
    # -P: a module of the user's in the working directory must not stand in for a package.
    words = [sys.executable, "-P", "-m", "lengthen", "train", str(file), "--out", str(place)]
    slot = min(set(range(machine.jobs)) - {job.slot for job in others})
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*words, "--resume", "auto", "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(machine, slot),
            # A signal to us is passed on by us: each run then saves, and once.
            start_new_session=True,
            preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
        )
    return Job(slot, process, log)


@dataclass
class Held:
    """Runs that another process has: one that still saves, or that somebody resumes by hand."""

    until: dict[str, float] = field(default_factory=dict)  # when each is tried again

    def __contains__(self, name: str) -> bool:
        return self.until.get(name, 0.0) > time.monotonic()

    def add(self, name: str) -> bool:
        """Put a run off for a while; return whether this is the first time."""
        first = name not in self.until
        self.until[name] = time.monotonic() + BUSY_SECONDS
        return first


def attempted(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what attempts.jsonl says of each run, in order; a line that was cut is left out."""
    path = root / ATTEMPTS
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("run"), str):
            yield record["run"], record


def stop(jobs: Sequence[Job]) -> None:
    """Let runs save and end, and wait until they have."""
    for job in jobs:
        job.process.terminate()
    for job in jobs:
        job.process.wait()


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


def _end_with_parent() -> Callable[[], None]:
    # The kernel tells the run when we die, even by SIGKILL; it saves and ends. The library is
    # loaded before the fork, behind which little is safe.
    tell = ctypes.CDLL(None).prctl
    return lambda: tell(PARENT_DIED, signal.SIGTERM)


def _why(code: int, log: Path) -> str:
    """Say in one line why a run ended; where it did not say so itself, where its output is."""
    if code in (1, *range(-64, 0)):
        return f"ended with exit code {code}: {last_line(log)}; all that it said is in {log}"
    return last_line(log) or f"ended with exit code {code}"


def last_line(log: Path) -> str:
    """Return the last error in what a run has printed, else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.startswith("lengthen: ") and "is a bug" not in line]
    return printable((said or lines or [""])[-1].removeprefix("lengthen: "))
