"""Which settings to try next, and when to stop: the paper's two stages, without any file or clock.

    1. the duration T is 4 warm-ups; the start rises until the trial is calm
    2. that start; the largest multiple k <= 64 of the warm-up, T = k W, that is calm, by bisection

What is known is a mapping from settings to whether they were calm. The strategy is replayed over it
from the beginning each time, so whatever is known besides (a trial that was only speculation) can
never change the choice.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

FIRST = 4  # warm-ups of T in stage 1 (ours; the paper says "a few")
MOST = 64  # warm-ups of T (ours)
MOST_RATE = 64  # times the learning rate, a doubling above the 40 of the paper's boldest recipe
MOST_ROWS = 8  # times the rows, as many as the paper


@dataclass(frozen=True)
class Setting:
    """What a trial tries."""

    start: int  # tokens
    multiple: int  # k: the duration in warm-ups of the learning rate
    rate: int = 1  # times the learning rate, a power of 2
    rows: int = 1  # times the rows, likewise


@dataclass(frozen=True)
class Space:
    """What may be tried."""

    starts: tuple[int, ...]  # tokens, rising
    aggressive: bool = False  # also larger learning rates, then more rows
    most_rows: int = MOST_ROWS


@dataclass(frozen=True)
class End:
    """The search is over."""

    chosen: Setting | None  # None: not one start was calm


Known = Mapping[Setting, bool]  # setting -> was it calm?


def next_step(space: Space, known: Known) -> Setting | End:
    """Return the setting that must be tried next, or the end of the search."""
    start = _start(space, known)
    if not isinstance(start, int):
        return start
    low, high = FIRST, MOST + 1  # calm, and taken not to be
    while high - low > 1:
        setting = Setting(start, (low + high) // 2)
        if setting not in known:
            return setting
        low, high = (setting.multiple, high) if known[setting] else (low, setting.multiple)
    chosen = Setting(start, low)
    return _bolder(space, known, chosen) if space.aggressive else End(chosen)


def _start(space: Space, known: Known) -> int | Setting | End:
    for start in space.starts:
        setting = Setting(start, FIRST)
        if setting not in known:
            return setting
        if known[setting]:
            return start
    return End(None)


def _bolder(space: Space, known: Known, chosen: Setting) -> Setting | End:
    """Double the learning rate while the trial stays calm, then the rows."""
    while chosen.rate < MOST_RATE:
        setting = replace(chosen, rate=2 * chosen.rate)
        if setting not in known:
            return setting
        if not known[setting]:
            break
        chosen = setting
    while chosen.rows < space.most_rows:
        setting = replace(chosen, rows=2 * chosen.rows)
        if setting not in known:
            return setting
        if not known[setting]:
            break
        chosen = setting
    return End(chosen)


def tries(space: Space, known: Known, jobs: int) -> list[Setting]:
    """Return up to `jobs` settings to try side by side, the needed one first; none at the end.

    The others are speculation: what will be needed next if the ones before them come out calm, or
    if they do not.
    """
    found: list[Setting] = []
    supposed: deque[Known] = deque([known])
    while supposed and len(found) < jobs:
        case = supposed.popleft()
        setting = next_step(space, case)
        if isinstance(setting, End):
            continue
        found.append(setting)
        supposed += [{**case, setting: True}, {**case, setting: False}]
    return found


def against_monotony(known: Known, chosen: Setting) -> list[Setting]:
    """Return the trials that contradict 'what is calm at T is calm at every shorter one'.

    The search itself cannot meet one: only a speculative trial above the choice can have been calm,
    or one below it not. The choice stands: the largest T that was calm below the smallest that the
    bisection found not to be.
    """
    plain = replace(chosen, rate=1, rows=1)
    return [
        setting
        for setting, calm in known.items()
        if replace(setting, multiple=plain.multiple) == plain
        and calm == (setting.multiple > plain.multiple)
        and setting != plain
    ]
