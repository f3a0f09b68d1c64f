"""Which settings to try next, and when to stop, without any file or clock.

The second and the third are the paper's, the others ours:

    1. the wildest: the first start with the longest T; where that is calm, so is all that 2 and 3
       would try
    2. the start: the duration T is 4 warm-ups; it rises until the very beginning is calm
    3. the duration: the largest multiple of the warm-up, of 4 to 64, that is calm, by bisection;
       but none so long that it leaves too little of the budget after it
    4. the race: a start four times as long wins, and so on, unless it is clearly worse at the end
       of a longer trial, of as many tokens for each
    5. the duration again, for a start that won, from the T of the race on

Where the start is not calm beyond the very beginning, whatever T, it rises further. Where no start
is, the longest is tried at 1 to 3 warm-ups. Where a winner is not calm, the one before it stays.

What is known is a mapping from settings to the loss at which they ended. The strategy is replayed
over it from the beginning each time, so whatever is known besides (a trial that was only
speculation) can never change the choice.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from math import inf, isfinite, log

FIRST = 4  # warm-ups of T while the start is looked for (ours; the paper says "a few")
# Warm-ups of T (ours). From 4 on each is about one and a half times the one before, so that three
# trials find the largest calm one: finer ones would cost as many again, to choose among durations
# that one seed cannot tell apart.
MULTIPLES = (1, 2, 3, 4, 6, 9, 13, 19, 29, 43, 64)
RIVAL = 4  # times the start, in a race (ours): one seed cannot tell nearer ones apart
# Nats by which a longer start may be worse in a race (ours): 10 % of perplexity. The shorter one
# has made more steps by then and seems better than it ends, and seeds lie some percent apart.
RACE_TOLERANCE = log(1.1)
MOST_RATE = 64  # times the learning rate, a doubling above the 40 of the paper's boldest recipe
MOST_ROWS = 8  # times the rows, as many as the paper


@dataclass(frozen=True)
class Setting:
    """What a trial tries."""

    start: int  # tokens
    multiple: int  # k: the duration in warm-ups of the learning rate
    rate: int = 1  # times the learning rate, a power of 2
    rows: int = 1  # times the rows, likewise
    opening: bool = False  # judged over the very beginning alone: it looks for the start
    raced: bool = False  # trained further, and compared with other starts


@dataclass(frozen=True)
class Space:
    """What may be tried."""

    starts: tuple[int, ...]  # tokens, rising
    aggressive: bool = False  # also larger learning rates, then more rows
    # Whether the budget has room for such a trial, and for such a training.
    fits: Callable[[Setting], bool] = lambda _: True

    def ladder(self, start: int) -> list[Setting]:
        """Return the durations that are tried at a start, rising: as far as the budget has room.

        The first one stays whatever the budget.
        """
        longer = (Setting(start, k) for k in MULTIPLES if k > FIRST)
        return [Setting(start, FIRST), *takewhile(self.fits, longer)]

    def rival(self, setting: Setting) -> Setting | None:
        """Return the same with the next start to race against; None where there is none."""
        longer = [start for start in self.starts if start >= RIVAL * setting.start]
        rival = replace(setting, start=longer[0]) if longer else None
        fits = rival is not None and self.fits(rival) and self.fits(raced(rival))
        return rival if fits else None

    def with_more_rows(self, setting: Setting) -> Setting | None:
        """Return a setting with its rows doubled; None where no more are tried."""
        wider = replace(setting, rows=2 * setting.rows)
        return wider if wider.rows <= MOST_ROWS and self.fits(wider) else None


@dataclass(frozen=True)
class End:
    """The search is over."""

    chosen: Setting | None  # None: not one start was calm


Losses = Mapping[Setting, float]  # setting -> loss at the end of its trial, nats; inf: not calm


class _Needed(Exception):
    """A setting whose loss nobody knows, and the search cannot continue without."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.setting = setting


def next_step(space: Space, known: Losses) -> Setting | End:
    """Return the setting that must be tried next, or the end of the search."""
    try:
        return End(_search(space, known))
    except _Needed as needed:
        return needed.setting


def _loss(known: Losses, setting: Setting) -> float:
    if setting not in known:
        raise _Needed(setting)
    return known[setting]


def _is_calm(known: Losses, setting: Setting) -> bool:
    return isfinite(_loss(known, setting))


def _search(space: Space, known: Losses) -> Setting | None:
    chosen = _first_calm(space, known)
    if chosen is None:
        return None
    chosen = _race_winner(space, known, chosen)
    return _boldest(space, known, chosen) if space.aggressive else chosen


def _first_calm(space: Space, known: Losses) -> Setting | None:
    """Return the first start that is calm with the largest T that is."""
    wildest = space.ladder(space.starts[0])[-1]
    if _is_calm(known, wildest):
        return wildest
    for start in space.starts:
        rising = [setting for setting in space.ladder(start) if setting != wildest]
        if not rising or not _is_calm(known, Setting(start, FIRST, opening=True)):
            continue
        # A calm opening stands for the whole trial until no larger T is calm.
        if longest := _longest(known, rising, low=0):
            return longest
    shorter = [Setting(space.starts[-1], k) for k in MULTIPLES if k < FIRST]
    return _longest(known, [setting for setting in shorter if space.fits(setting)], low=-1)


def _longest(known: Losses, rising: Sequence[Setting], low: int) -> Setting | None:
    """Return the last that is calm, by bisection.

    `low` is the index of one that is taken to be calm, -1 for none.
    """
    high = len(rising)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _is_calm(known, rising[middle]) else (low, middle)
    return rising[low] if low >= 0 and _is_calm(known, rising[low]) else None


def _race_winner(space: Space, known: Losses, chosen: Setting) -> Setting:
    """Let longer starts take the place of what was chosen, while they are not clearly worse."""
    entries = _entries(space, known, chosen)
    for winner in reversed([one for other, one in pairwise(entries) if _wins(known, one, other)]):
        # What was too long for the shorter start need not be for this one.
        ladder = space.ladder(winner.start)
        if longest := _longest(known, ladder[ladder.index(winner) :], low=0):
            return longest
    return chosen


def race_entries(space: Space, known: Losses) -> list[Setting]:
    """Return what has raced, each against the one before; nothing where there was no race."""
    try:
        chosen = _first_calm(space, known)
        entries = [] if chosen is None else _entries(space, known, chosen)
    except _Needed:
        return []
    return entries if len(entries) > 1 else []


def _entries(space: Space, known: Losses, first: Setting) -> list[Setting]:
    """Return what races, up to the first that loses."""
    rivals = race_from(space, first)
    for number, (other, rival) in enumerate(pairwise(rivals), 2):
        if not _wins(known, rival, other):
            return rivals[:number]
    return rivals


def race_from(space: Space, first: Setting) -> list[Setting]:
    """Return what races after `first` was chosen, if the longer start wins each time."""
    entries = [first]
    while rival := space.rival(entries[-1]):
        entries.append(rival)
    return entries


def raced(setting: Setting) -> Setting:
    """Return what a setting tries in a race."""
    return replace(setting, raced=True)


def _wins(known: Losses, rival: Setting, other: Setting) -> bool:
    others, its = _loss(known, raced(other)), _loss(known, raced(rival))
    return isfinite(its) and its - others <= RACE_TOLERANCE


def _boldest(space: Space, known: Losses, chosen: Setting) -> Setting:
    """Double the learning rate of what was chosen while the trial stays calm, then the rows."""
    while chosen.rate < MOST_RATE:
        faster = replace(chosen, rate=2 * chosen.rate)
        if not _is_calm(known, faster):
            break
        chosen = faster
    while (wider := space.with_more_rows(chosen)) and _is_calm(known, wider):
        chosen = wider
    return chosen


def next_settings(space: Space, known: Losses, jobs: int) -> list[Setting]:
    """Return up to `jobs` settings to try side by side, the needed one first; none at the end.

    The others are speculation: what will be needed next if the ones before them come out well, or
    if they do not.
    """
    settings: list[Setting] = []
    supposed: deque[Losses] = deque([known])
    while supposed and len(settings) < jobs:
        case = supposed.popleft()
        setting = next_step(space, case)
        if isinstance(setting, End) or setting in settings:
            continue  # two ways can lead to one trial
        settings.append(setting)
        # Whether a race continues depends on how it ends, and none is begun in vain.
        best = min(filter(isfinite, case.values()), default=0.0) - 1.0
        losses = (inf,) if setting.raced else (best, inf)
        supposed += [{**case, setting: loss} for loss in losses]
    return settings
