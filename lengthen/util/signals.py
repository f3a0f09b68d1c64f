"""SIGINT, SIGTERM and SIGHUP as a request to stop, which a loop checks between two steps."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PARENT_DIED = 1  # PR_SET_PDEATHSIG
ADOPTS = 36  # PR_SET_CHILD_SUBREAPER
# SLURM may signal every process of a step, and a launcher among them passes the signal on.
ONE_REQUEST_SECONDS = 5.0


def end_with_parent(number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """Return a `preexec_fn`: the kernel signals the process when its parent dies, even by SIGKILL.

    The library is loaded before the fork, after which little is safe. Linux alone has that.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    return prctl and (lambda: prctl(PARENT_DIED, number))


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave running; Linux alone has that.

    Not every container has a first process that waits for orphans, which stay as zombies then.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ADOPTS, 1)


class StopSignal:
    """Remembers the first signal that asks this process to stop; a later one ends it at once.

    Signals within 5 s of the first are the same request, which came by several ways.
    """

    def __init__(self) -> None:
        self.number = 0  # of the first signal; 0 before one came
        self._at = 0.0  # seconds; when it came

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.number != 0

    @contextmanager
    def listening(self) -> Iterator["StopSignal"]:
        """Catch SIGINT, SIGTERM and SIGHUP while the block runs.

        A signal that this process ignores, as `nohup` makes it do, stays ignored, and one that a
        program around Python catches stays its own: Python could not put it back. It lets the main
        thread alone catch any: in another one, a host program's, there is nothing to hear.
        """
        is_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if is_main else ()
        others = (signal.SIG_IGN, None)
        caught = [number for number in signals if signal.getsignal(number) not in others]
        before = {number: signal.signal(number, self._receive) for number in caught}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._at = number, time.monotonic()
        elif time.monotonic() >= self._at + ONE_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
