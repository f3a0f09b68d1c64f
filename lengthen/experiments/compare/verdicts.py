"""Final validation losses -> a verdict for each pair of variants; pure arithmetic."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, TypeAlias

from lengthen.util.stats import (
    Interval,
    Paired,
    all_against_none,
    check_share,
    holm,
    interval,
    paired,
    smallest_effect,
    stands_apart,
)
from lengthen.util.tables import between

Seeds: TypeAlias = Mapping[int, float | None]  # seed -> final loss in nats; None: it diverged
Losses: TypeAlias = Mapping[str, Seeds]  # by variant
Verdict: TypeAlias = Literal[
    "better", "worse", "not distinguishable", "too few seeds", "exploratory"
]
Within: TypeAlias = Literal["equivalent", "not worse", "not shown"]

FEWEST_SEEDS = 3
POWER = 0.8


@dataclass(frozen=True)
class PairVerdict:
    """What the seeds say about `a` against `b`; `better` means that a's loss is lower."""

    a: str
    b: str
    verdict: Verdict
    difference: Paired | None  # a - b in nats; None: no seed finished in both
    p_adjusted: float | None  # by Holm over the pairs that are judged; None: no test
    seeds: int  # finished in both
    diverged: tuple[int, int]  # seeds without a loss, of a and of b
    smallest_effect: float | None  # nats, seen at 80 %; None: no test, or no spread to judge by
    one_apart: bool  # whether one seed's difference lies too far from the others' for normal ones
    margin: float | None  # nats by which `a` may be worse; None: the pair is not judged by one
    bounds: Interval | None  # one-sided ones of a - b in nats, each at 1 - alpha

    @property
    def within(self) -> Within | None:
        """Whether `a` is worse by less than the margin, and `b` likewise (TOST)."""
        if self.margin is None or self.bounds is None:
            return None
        low, high = self.bounds.low, self.bounds.high
        if high is None or high >= self.margin or self.diverged[0]:
            return "not shown"
        both = low is not None and low > -self.margin and not self.diverged[1]
        return "equivalent" if both else "not worse"

    def sentence(self) -> str:
        """Return the verdict as one plain line, with what it rests on."""
        # Without it a reader would ask why an interval far from 0 is no verdict.
        bar = " and so is not called better" if self.verdict == "not distinguishable" else ""
        return "; ".join([self._finding(), *self._margin()]) + "".join(
            f"; {name} diverged in {count} seed{'s' if count > 1 else ''}{bar}"
            for name, count in zip((self.a, self.b), self.diverged, strict=True)
            if count
        )

    def _margin(self) -> Iterator[str]:
        if self.bounds is not None:
            line = f"{self.a} is not worse than {self.b} by more than {self.margin:g} nats"
            if self.within == "equivalent":
                line = f"{self.a} and {self.b} are equivalent within {self.margin:g} nats"
            hidden = "it is not shown that " if self.within == "not shown" else ""
            bounds = between(self.bounds.low, self.bounds.high)
            yield f"{hidden}{line} (one-sided bounds {bounds})"

    def _finding(self) -> str:
        p = "" if self.p_adjusted is None else f"p {self.p_adjusted:.2g} after Holm"
        if self.verdict == "too few seeds":
            why = f"{self.seeds} finished in both, {FEWEST_SEEDS} are needed"
            if p:
                lost, kept = (self.a, self.b) if self.diverged[0] else (self.b, self.a)
                why = f"{lost} never finished, {kept} always: {p}"
            return f"{self.a} and {self.b}: too few seeds ({why})"
        gap = self.difference
        if self.verdict == "exploratory":
            told = "fewer than 2 seeds finished in both"
            if gap is not None and gap.low is not None:
                told = f"difference {_nats(gap)} over {self.seeds} seeds"
            return f"{self.a} against {self.b}, exploratory: {told}"
        if gap is None:
            lost = self.b if self.verdict == "better" else self.a
            return f"{self.a} is {self.verdict} than {self.b}: {lost} never finished ({p})"
        if self.verdict == "not distinguishable":
            line = (
                f"{self.a} and {self.b} are not distinguishable: "
                f"difference {_nats(gap)} over {self.seeds} seeds"
            )
            if self.smallest_effect is None:
                return line
            see = f"these seeds can see {self.smallest_effect:.2g} nats at {100 * POWER:.0f} %"
            return f"{line}; {see}"
        by = _nats(gap, -1 if self.verdict == "better" else 1)
        return f"{self.a} is {self.verdict} than {self.b} by {by} over {self.seeds} seeds ({p})"


@dataclass(frozen=True)
class Speedup:
    """How many times fewer tokens (or seconds) a target took than the baseline needed for it."""

    ratio: float | None  # geometric mean over the seeds that reached it; None: none did
    low: float | None  # None: fewer than 3 did, of which an interval can be a million times wide
    high: float | None
    reached: int
    n: int


def verdicts(
    losses: Losses,
    alpha: float = 0.05,
    primary: Sequence[tuple[str, str]] = (),
    margin: float | None = None,
) -> list[PairVerdict]:
    """Return a verdict for every pair of variants, in the order named.

    Runs of one seed are paired, and a difference counts if its p, after Holm over exactly these
    pairs, is at most `alpha`: the chance of any false one in the whole table is `alpha` at most.
    Intervals are each pair's own, at 1 - alpha. Where there are `primary` pairs they alone are
    judged and come first; the others are exploratory. A `margin` in nats is for pairs that are
    judged: two one-sided tests, each at `alpha` and without Holm.

    - At least 3 seeds finished in both: p is that of the paired t-test.
    - One diverged in every seed and the other in none, over at least 3 that both were given: p is
      how likely chance does that at most (stats.all_against_none).
    - Anything else, and a p of the second kind above `alpha`, is 'too few seeds'. Pairs without a
      p are in Holm's family with 1.
    - A variant with a diverged seed is never better, nor within a margin: where the test is in its
      favour it is 'not distinguishable', since the seeds that it lost are missing from the mean.

    A loss that is not finite counts as none.

    Raises SettingError where `alpha` is not between 0 and 1.
    """
    check_share("alpha", alpha)
    every = list(combinations(losses, 2))
    pairs = list(primary) or every
    others = [pair for pair in every if not {pair, pair[::-1]} & {*pairs}]
    gaps = [_gaps(losses[a], losses[b]) for a, b in pairs]
    differences = [paired(of_pair, 1 - alpha) if of_pair else None for of_pair in gaps]
    tests = [_p(losses[a], losses[b], d) for (a, b), d in zip(pairs, differences, strict=True)]
    adjusted = holm([1.0 if p is None else p for p in tests])
    hardest = alpha / max(1, len(pairs))  # Holm's first step; the later ones see a little more
    judged = [
        PairVerdict(
            a=a,
            b=b,
            verdict=_verdict(losses[a], losses[b], difference, significant=p <= alpha),
            difference=difference,
            p_adjusted=None if test is None else p,
            seeds=difference.n if difference else 0,
            diverged=(_diverged(losses[a]), _diverged(losses[b])),
            smallest_effect=_smallest_effect(difference, hardest),
            one_apart=stands_apart(of_pair),
            margin=margin,
            bounds=interval(of_pair, 1 - 2 * alpha)
            if margin and len(of_pair) >= FEWEST_SEEDS
            else None,
        )
        for (a, b), of_pair, difference, test, p in zip(
            pairs, gaps, differences, tests, adjusted, strict=True
        )
    ]
    alone = [verdicts({name: losses[name] for name in pair}, alpha)[0] for pair in others]
    no_test: dict[str, Any] = {"p_adjusted": None, "smallest_effect": None}
    return judged + [replace(pair, verdict="exploratory", **no_test) for pair in alone]


def speedups(baseline_tokens: Sequence[float], tokens: Sequence[float | None]) -> Speedup:
    """Return baseline_tokens / tokens, as a geometric mean over seeds with its 95 % interval.

    Both are tokens (or seconds) until the target, all above 0; None: not reached. Seeds that did
    not reach it are left out of the mean, which flatters: read it together with `reached` of `n`.

    Raises ValueError where the two are not equally long.
    """
    both = zip(baseline_tokens, tokens, strict=True)
    logs = [math.log(theirs / ours) for theirs, ours in both if ours is not None]
    if not logs:
        return Speedup(None, None, None, 0, len(tokens))
    mean = interval(logs)
    bounds = (mean.low, mean.high) if mean.n >= FEWEST_SEEDS else (None, None)
    low, high = (None if bound is None else math.exp(bound) for bound in bounds)
    return Speedup(math.exp(mean.mean), low, high, mean.n, len(tokens))


def _gaps(a: Seeds, b: Seeds) -> list[float]:
    """Return a - b of each seed that finished in both."""
    theirs = _finished(b)
    return [loss - theirs[seed] for seed, loss in _finished(a).items() if seed in theirs]


def _p(a: Seeds, b: Seeds, difference: Paired | None) -> float | None:
    """Return the p of 'a and b are alike', before Holm; None where nothing can be tested."""
    if _lost_to(a, b) or _lost_to(b, a):
        return all_against_none(len(a.keys() & b.keys()))
    return difference.p if difference and difference.n >= FEWEST_SEEDS else None


def _verdict(a: Seeds, b: Seeds, difference: Paired | None, *, significant: bool) -> Verdict:
    if _lost_to(a, b) and significant:
        return "worse"
    if _lost_to(b, a) and significant:
        return "better"
    if difference is None or difference.n < FEWEST_SEEDS:
        return "too few seeds"
    verdict: Verdict = "better" if difference.mean < 0 else "worse"
    winner = a if verdict == "better" else b
    return verdict if significant and not _diverged(winner) else "not distinguishable"


def _lost_to(one: Seeds, other: Seeds) -> bool:
    """Whether `one` never finished, where `other` always did."""
    given = len(one.keys() & other.keys())
    return given >= FEWEST_SEEDS and not _finished(one) and not _diverged(other)


def _smallest_effect(difference: Paired | None, alpha: float) -> float | None:
    if difference is None or difference.n < FEWEST_SEEDS or not difference.sd:
        return None
    return smallest_effect(difference.n, alpha, POWER) * difference.sd


def _finished(losses: Seeds) -> dict[int, float]:
    return {s: loss for s, loss in losses.items() if loss is not None and math.isfinite(loss)}


def _diverged(losses: Seeds) -> int:
    return len(losses) - len(_finished(losses))


def _nats(difference: Paired, sign: int = 1) -> str:
    """Return `0.184 nats [0.120, 0.248]`, of the difference or of its opposite."""
    assert difference.low is not None
    assert difference.high is not None
    low, high = sorted((sign * difference.low, sign * difference.high))
    # z: a difference that rounds to nothing has no sign.
    return f"{sign * difference.mean:z.3f} nats [{low:z.3f}, {high:z.3f}]"
