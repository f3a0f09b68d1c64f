"""Where a long piece of work stands: a live line in a terminal, now and then a line elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0  # between two lines where there is no terminal


@dataclass
class Heard:
    """A stream as long as somebody reads it, then silence: work goes on without a reader."""

    stream: TextIO

    def write(self, text: str) -> int:
        """Write `text`, if it can be heard."""
        with self._heard():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Send on what was written, if it can be heard."""
        with self._heard():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _heard(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # a closed pipe, or a terminal that is gone
            # Python tries once more at its end, and would end with a code of its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


class ErrorStream(Console):
    """The error stream, for as long as somebody reads it."""

    def __init__(self) -> None:
        super().__init__(file=cast(IO[str], Heard(sys.stderr)))


def note(text: str) -> None:
    """Print a line of ours on the error stream, if somebody reads it."""
    if sys.stderr is None:  # closed from the start
        return
    errors = Heard(sys.stderr)
    errors.write(f"lengthen: {text}\n")
    errors.flush()


class Line(Protocol):
    """What the training loop tells about itself."""

    def update(self, done: int, text: str) -> None:
        """Say how much is done, and how it goes."""

    def say(self, text: str) -> None:
        """Print a line that stays."""


class Silent:
    """Says nothing: for ranks but the first, and for libraries."""

    def update(self, done: int, text: str) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""


@dataclass
class Terminal:
    """A bar with the time left."""

    bar: Progress
    task: TaskID

    def update(self, done: int, text: str) -> None:
        """Redraw the line."""
        self.bar.update(self.task, completed=done, text=escape(text))

    def say(self, text: str) -> None:
        """Print above the line."""
        self.bar.console.print(escape(text), highlight=False)


@dataclass
class Plain:
    """One line every ten seconds: for files and pipes."""

    total: int
    console: Console
    began: float = field(default_factory=time.monotonic)
    first: int | None = None  # what was done already when this process began
    last: float = 0.0

    def update(self, done: int, text: str) -> None:
        """Print a line if the last one is long ago."""
        now = time.monotonic()
        if self.first is None:
            self.first = done
        if now - self.last < PLAIN_SECONDS:
            return
        self.last = now
        self.say(f"{100 * done // max(1, self.total):3d}%  {text}  {self._left(done, now)}")

    def _left(self, done: int, now: float) -> str:
        new = done - (self.first or 0)
        if not new:
            return ""
        return f"{clock_time((self.total - done) * (now - self.began) / new)} left"

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)


def clock_time(seconds: float) -> str:
    """Return h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextmanager
def line(total: int, label: str, *, shown: bool = True) -> Iterator[Line]:
    """Open a progress line over `total` units on the error stream, so that output stays clean."""
    console = ErrorStream()
    if not shown:
        yield Silent()
    elif not console.is_terminal:
        yield Plain(total, console)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            yield Terminal(bar, bar.add_task(escape(label), total=total, text=""))
