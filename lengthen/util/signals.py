"""SIGINT, SIGTERM and SIGHUP as a request to stop, which a loop checks between two steps."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PARENT_DIED = 1  # PR_SET_PDEATHSIG


def end_with_parent(number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """Return a `preexec_fn`: the kernel signals the process when its parent dies, even by SIGKILL.

    The library is loaded before the fork, after which little is safe. Linux alone has that.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    return prctl and (lambda: prctl(PARENT_DIED, number))


class StopSignal:
    """Remembers the first signal that asks this process to stop; a second one ends it at once."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal; 0 before one came

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.number != 0

    @contextmanager
    def listening(self) -> Iterator["StopSignal"]:
        """Catch SIGINT, SIGTERM and SIGHUP while the block runs.

        A signal that this process ignores, as `nohup` makes it do, stays ignored.
        """
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        caught = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in caught}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
