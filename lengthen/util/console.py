"""Progress of long work on the error stream: a live bar in a terminal, some lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from lengthen.util.tables import text_lines

PLAIN_SECONDS = 10.0  # between two lines where there is no terminal


@dataclass(frozen=True)
class Unbreakable:
    """A stream for as long as somebody reads it, then silence: work continues without a reader."""

    stream: TextIO | None  # None: closed from the start

    def write(self, text: str) -> int:
        """Write `text`, if somebody reads it."""
        if self.stream is not None:
            with _silent_if_closed(self.stream):
                self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Send on what was written, if somebody reads it."""
        if self.stream is not None:
            with _silent_if_closed(self.stream):
                self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _silent_if_closed(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except OSError:  # a closed pipe, or a terminal that is gone
        # Python flushes once more at its end, and would end with a code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class ErrorStream(Console):
    """The error stream, for as long as somebody reads it."""

    def __init__(self) -> None:
        super().__init__(file=cast(IO[str], Unbreakable(sys.stderr)))


def note(text: str) -> None:
    """Print a line of ours on the error stream, if somebody reads it."""
    _print(ErrorStream(), f"lengthen: {text}")


def _print(console: Console, text: str) -> None:
    """Print a line; a terminal gets it in several where it is too long, with commands whole."""
    for part in text_lines([text], console.width if console.is_terminal else None):
        console.print(Text(part), soft_wrap=True)


def say(notes: Iterable[str]) -> None:
    """Print notes on the error stream, a line each."""
    for text in notes:
        note(text)


Left = Callable[[], float | None]  # seconds; None: nothing is known yet


def no_estimate() -> None:
    """Know nothing of the seconds left."""


class Line:
    """Where work reports how far it is; this one prints nothing, for other ranks and libraries."""

    def update(self, done: int, text: str, left: Left = no_estimate) -> None:
        """Show how much is done, `text` beside it, and the seconds left, else by the mean."""

    def say(self, text: str) -> None:
        """Print a line that stays."""


@dataclass(frozen=True)
class Bar(Line):
    """A live bar with the time left: for terminals."""

    bar: Progress
    task: TaskID
    refresh: bool  # at once, as no thread does it

    def update(self, done: int, text: str, left: Left = no_estimate) -> None:
        """Redraw the line."""
        self.bar.update(self.task, completed=done, text=escape(text), left=left())
        if self.refresh:
            self.bar.refresh()

    def say(self, text: str) -> None:
        """Print above the line."""
        _print(self.bar.console, text)


class Lines(Line):
    """One line every ten seconds: for files and pipes."""

    def __init__(self, total: int, console: Console) -> None:
        self._total, self._console = total, console
        self._began, self._printed = time.monotonic(), 0.0
        self._first: int | None = None  # what was done already when this process began

    def update(self, done: int, text: str, left: Left = no_estimate) -> None:
        """Print a line if the last one is long ago."""
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        if now - self._printed < PLAIN_SECONDS:
            return
        self._printed = now
        seconds = left()
        if seconds is None and (new := done - self._first):
            seconds = (self._total - done) * (now - self._began) / new
        shown = "" if seconds is None else f"{clock_time(seconds)} left"
        self.say(f"{100 * done // max(1, self._total):3d}%  {text}  {shown}")

    def say(self, text: str) -> None:
        """Print a line."""
        _print(self._console, text)


def clock_time(seconds: float) -> str:
    """Return h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class _Left(TimeRemainingColumn):
    """The seconds left that a task is given, else as the mean so far."""

    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        known = super().render(task).plain if left is None else clock_time(left)
        return Text(f"{known} left")


@contextmanager
def line(total: int, label: str, *, shown: bool = True, own_thread: bool = True) -> Iterator[Line]:
    """Open a progress line over `total` units on the error stream, so that output stays clean.

    A live one is redrawn by a thread, or at each update: a thread would be forked into processes.
    """
    console = ErrorStream()
    if not shown:
        yield Line()
    elif not console.is_terminal:
        yield Lines(total, console)
    else:
        left = (TextColumn("{task.fields[text]}"), _Left())
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), *left)
        with Progress(*columns, console=console, auto_refresh=own_thread) as bar:
            task = bar.add_task(escape(label), total=total, text="", left=None)
            yield Bar(bar, task, refresh=not own_thread)
