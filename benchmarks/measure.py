"""How benchmarks measure: in rounds, each contender once a round, so that drift hits all alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ROUNDS = 15  # an interval for a median needs as many


@dataclass(frozen=True)
class Figure:
    """A median with the interval that holds it with 95 % confidence."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def seconds_in_rounds(
    contenders: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, *, processor: bool = False
) -> dict[str, list[float]]:
    """Run every contender once per round, after one round that is not counted; return seconds.

    With `processor` they are the processor's, of all threads, which a busy machine changes little.
    """
    clock = time.process_time if processor else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        # The order turns, so that nobody always runs on what another left in the cache.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = clock()
            contenders[name]()
            if number:
                seconds[name].append(clock() - began)
    return seconds


def figure(values: Sequence[float]) -> Figure:
    """Return the median and its order-statistics interval (binomial, at least 95 %)."""
    ordered = sorted(values)
    count = len(ordered)
    half = max(0, int((count - 1.96 * count**0.5) / 2))
    return Figure(statistics.median(ordered), ordered[half], ordered[count - 1 - half])


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Figure:
    """Return how many times faster ours is, round by round."""
    return figure([their / our for their, our in zip(theirs, ours, strict=True)])


def furthest(ratios: Sequence[float]) -> float:
    """Return the one that is furthest from 1, to either side."""
    return max(ratios, key=lambda ratio: abs(math.log(max(ratio, 1e-3))))


def report(name: str, value: float | Figure) -> None:
    """Print the line that a figure ends with: its name and its value, alone."""
    print(f"{name}: {value.median if isinstance(value, Figure) else value:.3f}", flush=True)
