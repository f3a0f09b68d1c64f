"""A run in other people's dashboards, written by processes that training never waits for.

Each follows metrics.jsonl, which is there in any case: a tracker that is slow, offline, dead or out
of disk holds up nothing but itself. `python -m` this RUN NAME PARENT follows until PARENT is gone.
"""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, TypeAlias

from lengthen.config.load import read_toml
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.run.records import Event, Measurement, Record, from_json, to_json
from lengthen.util.console import note
from lengthen.util.errors import SettingError, nearest, one_line

LOOK_SECONDS = 1.0  # between two looks at the log
AXES = ("step", "tokens")
Write: TypeAlias = Callable[[Measurement], object]
OnRecord: TypeAlias = Callable[[Record], object]


def check_trackers(setting: str, names: Sequence[str]) -> None:
    """Raise SettingError for a tracker that there is not, or whose package is missing."""
    for name in names:
        if name not in TRACKERS:
            raise SettingError(setting, "no such tracker", name, nearest(name, TRACKERS))
        if find_spec(name) is None:
            hint = 'pip install "lengthen[trackers]"'
            raise SettingError(setting, f"needs the package {name}", hint=hint)


def start_trackers(run: Path, names: Sequence[str]) -> None:
    """Start a process for each tracker of this process's run; one that cannot start is left out.

    What they print is in tracker-NAME.log.
    """
    for name in names:
        words = [sys.executable, "-P", "-m", "lengthen.reporting.trackers", str(run), name]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        printed = (os.POSIX_SPAWN_OPEN, 1, run / f"tracker-{name}.log", flags, 0o644)
        actions = [printed, (os.POSIX_SPAWN_DUP2, 1, 2)]
        with suppress(OSError):
            # In a group of its own, which Ctrl-C does not reach.
            words.append(str(os.getpid()))
            os.posix_spawn(words[0], words, os.environ, file_actions=actions, setpgroup=0)


def write_to(name: str, runs: Sequence[Path]) -> None:
    """Write the records of runs that have begun to a tracker; raises SettingError without any."""
    if not runs:
        raise SettingError("--to", "is for directories of runs, not for a log or a packed study")
    for run in (one for one in runs if RunPaths(one).metrics.is_file()):
        records = [one for one in read_metrics(run).records if not isinstance(one, Event)]
        try:
            _write_all(records, TRACKERS[name](run))
        except Exception as error:  # the libraries raise all kinds
            rule = f"{name} failed ({one_line(error)})"
            raise SettingError("--to", rule, str(run)) from None


def _write_all(records: Sequence[Measurement], tracker: AbstractContextManager[Write]) -> None:
    with tracker as write:
        for record in records:
            write(record)


def guarded(on_record: OnRecord | None) -> OnRecord:
    """Return a call of `on_record` that raises nothing: what it raises ends the calls."""
    calls = [on_record] if on_record else []

    def call(record: Record) -> None:
        try:
            for one in calls:
                one(record)
        except Exception as error:
            calls.clear()
            note(f"on_record failed, and is not called again: {one_line(error)}")

    return call


def _follow(run: Path, name: str, parent: int) -> None:
    import fcntl  # of POSIX, as whoever starts this is

    with suppress(OSError):  # one that was started before a resume may write still
        fcntl.flock(sys.stdout, fcntl.LOCK_EX)
    with TRACKERS[name](run) as write, RunPaths(run).metrics.open("rb") as log:
        running = True
        while running:
            running = os.getppid() == parent  # before the look: then every line is there
            for record in _new_records(log):
                write(record)
            time.sleep(LOOK_SECONDS * running)


def _new_records(log: BinaryIO) -> Iterator[Measurement]:
    while (line := log.readline()).endswith(b"\n"):
        record = from_json(line)
        if record is not None and not isinstance(record, Event):
            yield record
    log.seek(-len(line), os.SEEK_CUR)


def _values(record: Measurement) -> dict[str, float]:
    """Return the numbers of a record, as `eval/loss`."""
    values = {n: v for n, v in to_json(record).items() if n not in AXES}
    return {f"{record.kind}/{n}": v for n, v in values.items() if type(v) in (int, float)}


@contextmanager
def _tensorboard(run: Path) -> Iterator[Write]:
    """Write RUN/tensorboard anew, one of its runs by steps and one by tokens."""
    files = import_module("tensorboard.summary.writer.event_file_writer")
    event, summary = (import_module(f"tensorboard.compat.proto.{n}_pb2") for n in NAMES)
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    folders = {axis: str(run / "tensorboard" / axis) for axis in AXES}
    writers = {axis: files.EventFileWriter(folders[axis], flush_secs=5) for axis in AXES}

    def write(record: Measurement) -> None:
        value = [summary.Summary.Value(tag=n, simple_value=v) for n, v in _values(record).items()]
        numbers, now = summary.Summary(value=value), RunPaths(run).metrics.stat().st_mtime
        for axis, writer in writers.items():
            at = getattr(record, axis)
            writer.add_event(event.Event(wall_time=now, step=at, summary=numbers))

    yield write
    for writer in writers.values():
        writer.close()


@contextmanager
def _wandb(run: Path) -> Iterator[Write]:
    paths = RunPaths(run)
    with paths.metrics.open("rb") as log:  # a run that is resumed is the same one there
        identity = hashlib.sha256(str(run.resolve()).encode() + log.readline()).hexdigest()[:16]
    known = {"dir": str(run), "name": run.resolve().name, "config": read_toml(paths.config)}
    with import_module("wandb").init(id=identity, resume="allow", **known) as tracked:
        tracked.define_metric("*", step_metric="tokens")
        yield lambda one: tracked.log({**_values(one), "tokens": one.tokens}, step=one.step)


NAMES = ("event", "summary")
TRACKERS: dict[str, Callable[[Path], AbstractContextManager[Write]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


if __name__ == "__main__":
    _follow(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
