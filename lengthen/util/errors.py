"""What can go wrong, as one tree; the exit code of the command stands on the class.

    LengthenError               1   (never raised itself)
    |-- SettingError            2   a wrong setting or usage
    |-- DataError               3   an unusable corpus, store or tokenizer
    |-- CheckpointError         4   no usable checkpoint
    |-- BusyError               5   the run directory belongs to another process
    |-- UnstableError           6   training stopped: loss or gradient not finite
    |-- MemoryLimitError        7   out of memory
    |-- StorageError            8   the disk is full, read-only or failing
    |-- PeerError               9   another rank or the network failed
    `-- StoppedError  128 + signal   SIGINT 130, SIGTERM 143, SIGHUP 129; after saving

A message is one line, `<what> <which>: <rule or cause>; <what to do>`; the command prints it after
`lengthen: ` and exits with the code. Anything else that escapes is a bug and exits 1.
"""

import signal
from collections.abc import Iterable
from difflib import get_close_matches

MESSAGE = 2000  # characters of a line that somebody still reads
NAME = 256  # of the name of a setting, which a file may make up, or of a file


class LengthenError(Exception):
    """Every error that we raise on purpose; `exit_code` is what the command returns.

    Its message is one line whatever names and values it has in it: they may be anybody's.
    """

    exit_code: int = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(cut(message, MESSAGE)))


class SettingError(LengthenError, ValueError):
    """A setting that breaks a rule.

    Raised low with the bare name of the setting; whoever knows the table it stands in names it
    in full: `raise error.within("pacing")`.
    """

    exit_code = 2

    def __init__(self, setting: str, rule: str, value: object = None, hint: str = "") -> None:
        self.setting, self.rule, self.value, self.hint = setting, rule, value, hint
        got = "" if value is None else f", got {shown(value)}"
        name = cut(setting, NAME)
        super().__init__(f"{name}: {rule}{got}{'; ' + hint if hint else ''}")

    def within(self, table: str) -> "SettingError":
        """Return the same error for the setting's full dotted name."""
        return SettingError(f"{table}.{self.setting}", self.rule, self.value, self.hint)


class DataError(LengthenError):
    """A corpus, token store or tokenizer that cannot be used."""

    exit_code = 3


class CheckpointError(LengthenError):
    """No checkpoint of a run can be used, or not the one that was asked for."""

    exit_code = 4


class BusyError(LengthenError):
    """Another process works on this run directory."""

    exit_code = 5


class UnstableError(LengthenError):
    """The loss or the gradient is not finite; weights and moments are as before the step.

    Or, from the tuner: no trial of a training was calm.
    """

    exit_code = 6


class MemoryLimitError(LengthenError):
    """The step does not fit into memory."""

    exit_code = 7


class StorageError(LengthenError):
    """A disk that is full, read-only or failing."""

    exit_code = 8


class PeerError(LengthenError):
    """Another rank, or the network between ranks, failed."""

    exit_code = 9


class StoppedError(LengthenError):
    """A signal ended the run after it had saved; the exit code is 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str) -> None:
        self.signal = signal.Signals(signal_number)
        self.exit_code = 128 + signal_number
        super().__init__(message)


def shown(value: object, limit: int = 80) -> str:
    """Return `value` for one line of a message: no control characters, never long.

    What is too long loses its middle: of a path the last name says most.
    """
    return cut(repr(value), limit)


def cut(text: str, limit: int) -> str:
    """Return `text` without its middle where it is longer than `limit` characters."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


def one_line(error: object) -> str:
    """Return the first line of a foreign message, cut to a readable length."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def printable(text: str) -> str:
    """Return `text` with what would steer a terminal written out: an escape becomes \\x1b."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def closest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """Return the hint that names the closest valid name; empty where none is close."""
    close = get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else ""


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """Return the hint that names the closest valid name, or lists them all where none is close."""
    names = list(names)
    return closest(name, names, cutoff) or (f"one of {', '.join(names)}" if names else "")
