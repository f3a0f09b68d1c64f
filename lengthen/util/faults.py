"""Faults on purpose: `LENGTHEN_FAULT=site:numbers:action` breaks a real process at a known place.

For tests; where the variable is not set, a site costs one comparison. A site counts how often
this process has passed it, from 1; at the numbers asked for, `7`, `7-9` or `7-` for ever, the
action happens.

    save      a file operation of writing or rotating checkpoints
    load      a read of a file of a checkpoint or a store
    log       a file operation on metrics.jsonl, which is opened and then written line by line
    prepare   a file operation of making a store
    step      a training step, in the forward pass of its first micro-batch
    eval      the forward pass of a micro-batch of an evaluation or a probe in training

    kill, term            SIGKILL, SIGTERM to itself
    exit                  ends at once, nothing cleaned up
    sleep                 hangs
    enospc, eio, estale   the operating system's error of that name
    oom                   what torch raises where memory runs out
    nan                   the loss of this micro-batch is not finite
"""

import errno
import os
import signal
import time
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from lengthen.util.errors import SettingError, nearest

Site = Literal["save", "load", "log", "prepare", "step", "eval"]
Action = Literal["kill", "term", "exit", "sleep", "enospc", "eio", "estale", "oom", "nan"]

VARIABLE = "LENGTHEN_FAULT"
ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO, "estale": errno.ESTALE}
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
FOREVER = 10**6  # seconds of a sleep; also the end of open numbers
EXIT = 70  # code of an exit on purpose: none of `errors`


@dataclass
class Fault:
    """What is to happen at the passages `first` to `last` of a site."""

    site: str
    first: int
    last: int
    action: str
    passed: int = 0


@cache
def asked() -> Fault | None:
    """Return the fault that this process was asked for, with its count; raises SettingError."""
    text = os.environ.get(VARIABLE)
    return _read(text) if text else None


def inject(site: Site) -> bool:
    """Pass a site, where the fault may happen; return whether its result is to be not finite."""
    fault = asked()
    if fault is None or fault.site != site:
        return False
    fault.passed += 1
    if not fault.first <= fault.passed <= fault.last:
        return False
    _happen(fault.action)
    return fault.action == "nan"


def _happen(action: str) -> None:
    if action in SIGNALS:
        os.kill(os.getpid(), SIGNALS[action])
    elif action in ERRORS:
        raise OSError(ERRORS[action], os.strerror(ERRORS[action]))
    elif action == "exit":
        os._exit(EXIT)
    elif action == "sleep":
        time.sleep(FOREVER)
    elif action == "oom":
        raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory, says {VARIABLE}")


def _read(text: str) -> Fault:
    site, numbers, action = [*text.split(":"), "", ""][:3]
    for word, words in ((site, get_args(Site)), (action, get_args(Action))):
        if word not in words:
            raise SettingError(VARIABLE, "must be site:numbers:action", text, nearest(word, words))
    first, dash, last = numbers.partition("-")
    end = (last or str(FOREVER)) if dash else first
    if not (first.isdecimal() and end.isdecimal()):
        raise SettingError(VARIABLE, "must have numbers such as 7, 7-9 or 7- in it", text)
    return Fault(site, int(first), int(end), action)
