"""The law for all that comes from outside, and the count of what was tried.

What is read is accepted, or refused in one line by an error of ours. Reading ends, in memory that
does not follow what a file claims, and writes nowhere but into the folder that it was given.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lengthen.util.errors import MESSAGE, LengthenError

TRIED: Counter[str] = Counter()  # inputs of each format
SECONDS = 20.0  # of the processor's time, that one input may take
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_allowed: Path | None = None  # where the use that is held may write
_held = False
_strays: list[str] = []


class HangError(BaseException):
    """An input takes too long; no Exception, since those are caught on purpose here and there."""


def held(form: str, use: Callable[[], object], inside: Path | None = None) -> str:
    """Count one input of a format and hold its use to the law; return the message of a refusal.

    It may write `inside` a folder, else nowhere.
    """
    TRIED[form] += 1
    try:
        with _limited(), _confined(inside):
            use()
    except LengthenError as error:
        refusal = error
    except HangError:
        raise AssertionError(f"no answer within {SECONDS} seconds") from None
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of a library in Rust
            raise AssertionError(f"a panic: {error}") from None
        raise
    else:
        return ""
    message = str(refusal)
    assert type(refusal) is not LengthenError
    assert message.isprintable(), message
    assert len(message) <= MESSAGE + 3, message
    return message


@contextmanager
def _limited() -> Iterator[None]:
    # Of the processor's time: the machine may be busy, and pytest has the other clock.
    before = signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise HangError


@contextmanager
def _confined(inside: Path | None) -> Iterator[None]:
    global _allowed, _held
    _allowed, _held = inside, True
    _strays.clear()
    try:
        yield
    finally:
        _held = False
    assert not _strays


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    """Take note of files that are opened for writing, made, moved or deleted where none may be."""
    if not _held or not (event == "open" or event in CHANGES):
        return
    if event == "open" and not int(arguments[2] or 0) & WRITES:
        return
    if not isinstance(arguments[0], str | bytes | os.PathLike):
        return  # an open file
    path = os.path.abspath(os.fsdecode(arguments[0]))
    ours = _allowed is not None and Path(path).is_relative_to(_allowed)
    # Modules that are imported late are compiled then.
    if not ours and "__pycache__" not in path and not path.startswith("/dev/"):
        _strays.append(f"{event} {path}")


sys.addaudithook(_look)
