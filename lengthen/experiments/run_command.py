"""Carry out one run of a command and write its log as ours: `python -m` this CONFIG DIRECTORY.

This process owns the run's directory, and the command is its child: from outside a run looks the
same whoever trains it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lengthen.analysis.external_logs import read_external_log
from lengthen.analysis.summary import why_diverged
from lengthen.experiments.command import Command, read_command
from lengthen.run.directory import RunPaths, owned
from lengthen.run.metrics import Metrics, last_record, read_metrics
from lengthen.run.records import Event, Record, to_json
from lengthen.util.disk import Disk
from lengthen.util.errors import (
    DataError,
    LengthenError,
    SettingError,
    StoppedError,
    UnstableError,
    one_line,
)
from lengthen.util.signals import StopSignal, adopt_orphans, end_with_parent

LOOK_SECONDS = 0.1  # between two looks at the command
LOG_SECONDS = 2.0  # between two looks at its log, at least
LOG_SHARE = 0.05  # of the time, at most, that reading the log takes
GRACE_SECONDS = 60.0  # to save, after SIGTERM
TAIL = 2**14  # bytes of what it has printed


def run_command(command: Command, directory: Path, printed: Path) -> None:
    """Carry a command's run out, from its beginning or from where a command that resumes was.

    `printed` is the file that has what it prints. Raises BusyError where another process has the
    run, StoppedError after a signal, UnstableError where the last loss is not finite, and
    SettingError or DataError where the command dies or its log holds no result.
    """
    disk, paths, out = Disk(), RunPaths(directory), directory.resolve() / "out"
    with owned(directory), StopSignal().listening() as stop:
        last = last_record(paths.metrics)
        if isinstance(last, Event) and last.name == "finished":
            return  # a job of an array may be given again
        if not command.resumes:
            disk.remove(out)
        out.mkdir(exist_ok=True)
        disk.replace_file(paths.config, command.to_toml().encode())
        disk.replace_file(paths.metrics, b"")
        code = _carry_out(command, out, paths.metrics, stop)
        try:
            metrics = _read(command, out)
        except LengthenError:
            if not code:
                raise
            metrics = Metrics((), 0)
        diverged = why_diverged(metrics)
        if code and not diverged:
            raise DataError(f"the command ended with exit code {code}: {_last_line(printed)}")
        tokens = metrics.evaluations[-1].tokens if metrics.evaluations else None
        if tokens is None and not diverged:
            raise DataError(f"{out / command.log['file']}: has no validation loss with its tokens")
        end = Event("finished", metrics.records[-1].step, tokens)
        disk.replace_file(paths.metrics, _lines([*metrics.records, end]))
        if diverged:
            raise UnstableError(diverged)


def _carry_out(command: Command, out: Path, metrics: Path, stop: StopSignal) -> int:
    """Run the command and write its log into `metrics` meanwhile; return its exit code."""
    words, written, due = command.words(out), b"", 0.0
    ending = end_with_parent(signal.SIGKILL)
    adopt_orphans()
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=ending
        )
    except OSError as error:
        raise SettingError("command", f"cannot start ({error.strerror})", words[0]) from None
    while process.poll() is None:
        if stop():
            _stop(process)
            raise StoppedError(stop.number, "stopped")
        if (began := time.monotonic()) >= due:
            written = _followed(command, out, metrics, written)
            due = time.monotonic() + max(LOG_SECONDS, (time.monotonic() - began) / LOG_SHARE)
        time.sleep(LOOK_SECONDS)
    return process.returncode


def _followed(command: Command, out: Path, metrics: Path, written: bytes) -> bytes:
    """Write the log into `metrics`, where it has more than was written; return what has been."""
    try:
        lines = _lines(_read(command, out).records)
        if lines != written:
            Disk().replace_file(metrics, lines)
    except LengthenError:  # it may be half written
        return written
    return lines


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Let a command, and what it has started, save and end; kill what has not by then."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        last = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < last:
            # A shell ends at once, and what it has started may save still.
            with suppress(ChildProcessError):
                os.waitpid(-process.pid, os.WNOHANG)
            os.killpg(process.pid, 0)
            time.sleep(LOOK_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)


def _read(command: Command, out: Path) -> Metrics:
    """Return what the log says, without an end of its own: only the command's counts."""
    log = out / command.log["file"]
    try:
        if command.log["kind"] == "RunLog":
            theirs = read_metrics(log)
            kept = (
                r for r in theirs.records if not (isinstance(r, Event) and r.name == "finished")
            )
            return replace(theirs, records=tuple(kept))
        return read_external_log(log, command.columns)
    except OSError as error:
        raise DataError(f"{log}: the command's log cannot be read ({error.strerror})") from None
    except SettingError as error:
        name = error.setting.replace("eval_loss", "validation_loss").replace("columns", "log")
        raise SettingError(name, error.rule, error.value, error.hint) from None


def _lines(records: Sequence[Record]) -> bytes:
    lines = (json.dumps(to_json(record), allow_nan=False) for record in records)
    return "".join(f"{line}\n" for line in lines).encode()


def _last_line(printed: Path) -> str:
    if not printed.is_file():  # of a command that was laid out
        return "what it printed says why"
    text = printed.read_bytes()[-TAIL:].decode(errors="replace").strip()
    return f"{one_line(text.rpartition(chr(10))[2])}; all that it printed is in {printed}"


if __name__ == "__main__":
    config = Path(sys.argv[1])
    try:
        run_command(read_command(config), Path(sys.argv[2]), config.with_suffix(".log"))
    except LengthenError as error:
        print(f"lengthen: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
