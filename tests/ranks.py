"""Ranks of a process group, forked from this process, so that none has to import torch again."""

import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lengthen.cli.main import main
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.launch import join_process_group
from lengthen.run.records import to_json
from lengthen.training.trainer import Trainer
from lengthen.util import faults

Work = Callable[[], int]  # returns an exit code


class Rank:
    """A forked process, used as a `subprocess.Popen` is."""

    def __init__(self, pid: int, output: int, errors: int) -> None:
        self.pid, self.returncode = pid, -1
        self._files, self._ended = (output, errors), False

    def poll(self) -> int | None:
        """Return the exit code, or minus the signal that ended it; None while it runs."""
        if not self._ended:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended, self.returncode = True, os.waitstatus_to_exitcode(status)
        return self.returncode if self._ended else None

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for the end; return what it wrote to its output and to its error stream."""
        late = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > late:
                self.kill()
                raise TimeoutError(f"a rank did not end in {timeout} s")
            time.sleep(0.01)
        output, errors = (os.pread(file, os.fstat(file).st_size, 0) for file in self._files)
        return output.decode(), errors.decode()

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs still."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def start(*works: Work, first: str = "", last: str = "") -> list[Rank]:
    """Start a rank for each work, as a launcher would.

    `first` and `last` are the faults that the first and the last rank are asked for.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(len(works))}
    ranks = []
    for rank, work in enumerate(works):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        fault = {faults.VARIABLE: {0: first, len(works) - 1: last}.get(rank, "")}
        ranks.append(_fork(work, {**world, **own, **fault}))
    return ranks


def _unnamed_file() -> int:
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    return descriptor


def _fork(work: Work, environment: dict[str, str]) -> Rank:
    output, errors = _unnamed_file(), _unnamed_file()
    pid = os.fork()
    if pid:
        return Rank(pid, output, errors)
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(errors, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ.update(environment)
        faults.asked.cache_clear()
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def commands(*words: Sequence[str], first: str = "", last: str = "") -> list[Rank]:
    """Start a rank for each command line of `lengthen`."""
    return start(*(partial(main, list(line)) for line in words), first=first, last=last)


def finish(ranks: Sequence[Rank]) -> list[str]:
    """Wait for the ranks, of which none may fail; return what each wrote to its output.

    The others of a rank that failed wait for it: their time-out is not the error to be shown.
    """
    late = time.monotonic() + 120
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() for rank in ranks) or time.monotonic() > late:
            time.sleep(5)  # for their own words
            for rank in ranks:
                rank.kill()
            break
        time.sleep(0.01)
    written = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), written
    return [output for output, _ in written]


def results(*works: Callable[[], Any]) -> list[Any]:
    """Return what each work returns in a rank of its own, by way of JSON."""

    def printing(work: Callable[[], Any]) -> int:
        print(json.dumps(work()))
        return 0

    return [
        json.loads(output) for output in finish(start(*(partial(printing, work) for work in works)))
    ]


@contextmanager
def joined_trainer(config: Config) -> Iterator[Trainer]:
    """Give this rank's trainer of a configuration while the ranks are joined."""
    store = open_store(config)
    config = with_store(config, store)
    with join_process_group(config.run) as context:
        size = config.batch.micro_tokens
        assert size != "auto"
        yield Trainer(config, store, context, size)


def train_steps(config: Config, steps: int, moments: Path) -> dict[str, Any]:
    """Train some steps on this rank; rank 0 saves the optimizer's tensors as `moments`."""
    with joined_trainer(config) as trainer:
        made = (trainer.step() for _ in range(steps))
        records = [to_json(record) for record in made if record is not None]
        if trainer.context.is_rank_zero:
            save_file(dict(trainer.tensors()["optimizer"]), moments)
        return {"records": records, "ledger": trainer.state_dict()["ledger"]}
