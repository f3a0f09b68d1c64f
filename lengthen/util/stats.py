"""What a few seeds can show: intervals, paired tests, Holm, power, correlation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lengthen.util.errors import SettingError


@dataclass(frozen=True)
class Interval:
    """A mean with Student's interval around it, in the unit of the values."""

    mean: float
    low: float | None  # None: one value has no spread
    high: float | None
    n: int


@dataclass(frozen=True)
class Paired(Interval):
    """A mean difference with Student's interval, and the p of 'there is none'."""

    p: float
    sd: float | None  # of the differences, n - 1 in the denominator


@dataclass(frozen=True)
class Correlation:
    """Pearson's r. `p` takes the pairs for independent; `p_effective` does not."""

    r: float
    p: float
    n: int
    effective_n: float  # independent pairs that would say as much, between 3 and n
    p_effective: float


def student_two_sided(t: float, freedom: float) -> float:
    """Return P(|T| >= |t|) of Student's t with `freedom` > 0 degrees of freedom."""
    from scipy.special import stdtr  # half a second to import, which few commands need

    return 2 * float(stdtr(freedom, -abs(t)))


def student_quantile(p: float, freedom: float) -> float:
    """Return t with P(T <= t) = p of Student's t with `freedom` > 0 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, p))


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean and Student's interval of it: mean -+ t(n - 1) * sd / sqrt(n).

    Raises SettingError where `confidence` is not between 0 and 1, or there are no values.
    """
    check_share("confidence", confidence)
    n = len(values)
    if n == 0:
        raise SettingError("values", "must have at least one number")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, n)
    t = -student_quantile((1 - confidence) / 2, n - 1)
    margin = t * _deviation(values) / math.sqrt(n)
    return Interval(mean, mean - margin, mean + margin, n)


def paired(differences: Sequence[float], confidence: float = 0.95) -> Paired:
    """Return the two-sided paired t-test of 'the mean difference is 0'; p = 1 for one difference.

    Raises SettingError as `interval` does.
    """
    mean = interval(differences, confidence)
    if mean.n == 1:
        return Paired(mean.mean, None, None, 1, 1.0, None)
    sd = _deviation(differences)
    if sd:
        p = student_two_sided(mean.mean / sd * math.sqrt(mean.n), mean.n - 1)
    else:
        # The limit of t for ever smaller spreads; no difference at all shows none.
        p = float(mean.mean == 0)
    return Paired(mean.mean, mean.low, mean.high, mean.n, p, sd)


def all_against_none(n: int) -> float:
    """Return how likely it is at most that of two alike variants one diverges in all of n seeds
    and the other in none.

        p = max over q of 2 q^n (1 - q)^n = 2 / 4^n,    q: how often each of them diverges
    """
    return 2 * 0.25**n


def stands_apart(values: Sequence[float], alpha: float = 0.01) -> bool:
    """Return whether one value lies too far from the others for normal ones (Grubbs' test).

    The value farthest from the mean of the others, in standard deviations of those, is compared
    with Student's t with n - 2 degrees of freedom, at alpha / n. Never for n < 3.
    """
    n = len(values)
    if n < 3:
        return False
    middle = math.fsum(values) / n
    farthest = max(range(n), key=lambda index: abs(values[index] - middle))
    others = [value for index, value in enumerate(values) if index != farthest]
    gap, spread = values[farthest] - math.fsum(others) / (n - 1), _deviation(others)
    if not spread:
        return gap != 0
    return n * student_two_sided(gap / spread / math.sqrt(1 + 1 / (n - 1)), n - 2) <= alpha


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for being several (Holm, 1979), in the order given.

        adjusted(i) = max over j <= i of min(1, (m - j) * p(j)),    p(0) <= ... <= p(m - 1)

    Whoever takes those of at most alpha for real is wrong anywhere with probability alpha at most.
    """
    adjusted = [0.0] * len(p_values)
    most = 0.0
    ranking = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(ranking):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = most
    return adjusted


def power(n: int, effect: float, alpha: float) -> float:
    """Return how likely the two-sided paired t-test of `n` pairs is to see `effect`.

    `effect` is the true mean difference in standard deviations of the differences. With
    d = effect * sqrt(n), c the critical t, v = n - 1 and u of the chi distribution with v degrees
    of freedom, T = (Z + d) / (u / sqrt(v)) is beyond -+c with probability

        E_u[Phi(d - c u / sqrt(v)) + Phi(-d - c u / sqrt(v))]

    Within 1e-6 for alpha >= 1e-4. scipy's own non-central t is nan for some large d, such as
    `nctdtr(1, 28.3, -12.7)`.

    Raises SettingError for n < 2, or an `alpha` that is not between 0 and 1.
    """
    from scipy.special import ndtr

    check_share("alpha", alpha)
    if n < 2:
        raise SettingError("n", "must be at least 2", n)
    freedom, shift = n - 1, abs(effect) * math.sqrt(n)
    critical = -student_quantile(alpha / 2, freedom)
    # Equal steps of w = log(u / sqrt(v)), where Phi climbs over a width of about 1/d however large
    # c is. Outside of these bounds the chi distribution has less than 1e-12.
    reach = 6 / math.sqrt(freedom)
    w = np.linspace(-28 / freedom - reach, reach, 2001)
    log_weight = freedom * w - freedom / 2 * np.exp(2 * w)  # the chi density times u, unscaled
    weight = np.exp(log_weight - log_weight.max())
    reached = ndtr(shift - critical * np.exp(w)) + ndtr(-shift - critical * np.exp(w))
    return float((weight * reached).sum() / weight.sum())


@lru_cache
def smallest_effect(n: int, alpha: float, power_wanted: float = 0.8) -> float:
    """Return the effect that `n` pairs see with that power, in sd of the paired difference.

    Raises SettingError as `power` does, and for a `power_wanted` that is not between 0 and 1.
    """
    check_share("power_wanted", power_wanted)
    low, high = 0.0, 1.0
    while power(n, high, alpha) < power_wanted:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        is_enough = power(n, middle, alpha) >= power_wanted
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Return Pearson's r of the pairs (x[i], y[i]), in the order of time.

    None where it is not defined: fewer than 3 pairs, a constant input, or one that is not finite.

        t = r * sqrt((n - 2) / (1 - r^2)),    effective n = n (1 - a b) / (1 + a b)

    Neighbouring steps of a run are alike, so they say less than as many independent ones and `p`
    over n is too small. The effective n allows for that by the lag-1 autocorrelations a and b of
    both (Bartlett, 1935); `p_effective` is over it.

    Raises SettingError where x and y are not equally long.
    """
    n = len(x)
    if n != len(y):
        raise SettingError("y", f"must be as long as x ({n})", len(y))
    first, second = _standardised(x), _standardised(y)
    if first is None or second is None:
        return None
    r = min(1.0, max(-1.0, float(first @ second)))
    alike = float(first[:-1] @ first[1:]) * float(second[:-1] @ second[1:])
    effective_n = min(float(n), max(3.0, n * (1 - alike) / (1 + alike)))
    return Correlation(r, _p_of_r(r, n), n, effective_n, _p_of_r(r, effective_n))


def check_share(name: str, value: float) -> None:
    """Raise SettingError unless `value` lies between 0 and 1, both excluded."""
    if not 0 < value < 1:
        raise SettingError(name, "must lie between 0 and 1", value)


def _deviation(values: Sequence[float]) -> float:
    if min(values) == max(values):
        return 0.0  # the mean of equal numbers can be off by a rounding, and they would not be
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _standardised(values: Sequence[float]) -> npt.NDArray[np.float64] | None:
    """Return values with mean 0 and sum of squares 1; None where there is no such thing."""
    raw = np.asarray(values, dtype=np.float64)
    if len(raw) < 3 or not np.isfinite(raw).all() or not raw.any():
        return None
    scaled = raw / np.abs(raw).max()  # so that no square overflows
    if scaled.min() == scaled.max():
        return None
    centred = scaled - scaled.mean()
    return np.asarray(centred / np.linalg.norm(centred))


def _p_of_r(r: float, n: float) -> float:
    unexplained = (1 - r) * (1 + r)
    t = r * math.sqrt((n - 2) / unexplained) if unexplained else math.inf
    return student_two_sided(t, n - 2)
