"""What a few seeds can show: intervals, paired tests, Holm, power, correlation; no scipy needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

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
class Paired:
    """A mean difference with Student's interval, and the p of 'there is none'."""

    mean: float
    low: float | None  # None: one difference has no spread
    high: float | None
    p: float
    n: int
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
    """Return P(|T| >= |t|) of Student's t with v = `freedom` > 0 degrees of freedom.

        p = I_x(v/2, 1/2),    x = v / (v + t^2)

    I is the regularised incomplete beta function (DLMF 8.17). Within a relative 1e-10 for v up to
    10^6, down to 1e-300; it stays a number at any t, infinite ones included.
    """
    ratio = abs(t) / math.sqrt(freedom)
    if ratio == 0:
        return 1.0
    log_x, log_rest = _log_shares(ratio)
    half = freedom / 2
    front = math.exp(half * log_x + log_rest / 2 - _log_beta_half(half))
    x, rest = math.exp(log_x), math.exp(log_rest)
    # Each side of this border has its own quick fraction: I_x(a, b) = 1 - I_{1-x}(b, a).
    if x < (half + 1) / (half + 2.5):
        return front / half / _beta_fraction(x, half, 0.5)
    return 1 - front / 0.5 / _beta_fraction(rest, 0.5, half)


def student_cdf(t: float, freedom: float) -> float:
    """Return P(T <= t) of Student's t with `freedom` > 0 degrees of freedom."""
    tail = student_two_sided(t, freedom) / 2
    return tail if t < 0 else 1 - tail


@lru_cache
def student_quantile(p: float, freedom: float) -> float:
    """Return t with P(T <= t) = p; -inf at p = 0, inf at p = 1. Takes about a millisecond."""
    if p > 0.5:
        return -student_quantile(1 - p, freedom)
    if p in (0, 0.5):
        return -math.inf if p == 0 else 0.0
    high = 1.0
    while student_two_sided(high, freedom) > 2 * p:
        high *= 2
    while student_two_sided(high / 2, freedom) < 2 * p:
        high /= 2
    low = high / 2
    for _ in range(54):  # bits of a float
        middle = (low + high) / 2
        too_low = student_two_sided(middle, freedom) > 2 * p
        low, high = (middle, high) if too_low else (low, middle)
    return -(low + high) / 2


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean and Student's interval of it: mean -+ t(n - 1) * sd / sqrt(n).

    Raises:
        SettingError: `confidence` is not between 0 and 1, or there are no values.
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

    Raises:
        SettingError: as for `interval`.
    """
    mean = interval(differences, confidence)
    if mean.n == 1:
        return Paired(mean.mean, None, None, 1.0, 1, None)
    sd = _deviation(differences)
    if sd == 0:
        # t is 0/0 or infinite. No difference at all shows none; one that no seed changes leaves
        # chance nothing to explain it with, which is the limit of t for ever smaller spreads.
        p = 1.0 if mean.mean == 0 else 0.0
    else:
        p = student_two_sided(mean.mean / sd * math.sqrt(mean.n), mean.n - 1)
    return Paired(mean.mean, mean.low, mean.high, p, mean.n, sd)


def all_against_none(n: int) -> float:
    """Return how likely it is at most that of two alike variants one diverges in all of n seeds
    and the other in none.

        p = max over q of 2 q^n (1 - q)^n = 2 / 4^n,    q: how often each of them diverges
    """
    return 2 * 0.25**n


def stands_apart(values: Sequence[float], alpha: float = 0.01) -> bool:
    """Return whether one value lies too far from the others for normal ones (Grubbs' test).

    The value farthest from the mean of the others, in standard deviations of those, is held
    against Student's t with n - 2 degrees of freedom, at alpha / n. Never for n < 3.
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

    Within 1e-6 for alpha >= 1e-4.

    Raises:
        SettingError: n < 2, or `alpha` is not between 0 and 1.
    """
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
    seen = _phi(shift - critical * np.exp(w)) + _phi(-shift - critical * np.exp(w))
    return float((weight * seen).sum() / weight.sum())


@lru_cache
def smallest_effect(n: int, alpha: float, power_wanted: float = 0.8) -> float:
    """Return the effect that `n` pairs see with that power, in sd of the paired difference.

    Raises:
        SettingError: n < 2, or `alpha` or `power_wanted` is not between 0 and 1.
    """
    check_share("power_wanted", power_wanted)
    low, high = 0.0, 1.0
    while power(n, high, alpha) < power_wanted:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        seen = power(n, middle, alpha) >= power_wanted
        low, high = (low, middle) if seen else (middle, high)
    return high


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Return Pearson's r of the pairs (x[i], y[i]), in the order of time.

    None where it is not defined: fewer than 3 pairs, a constant input, or one that is not finite.

        t = r * sqrt((n - 2) / (1 - r^2)),    effective n = n (1 - a b) / (1 + a b)

    Neighbouring steps of a run are alike, so they say less than as many independent ones and `p`
    over n is too small. The effective n allows for that by the lag-1 autocorrelations a and b of
    both (Bartlett, 1935); `p_effective` is over it.

    Raises:
        SettingError: x and y are not equally long.
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


def _log_shares(ratio: float) -> tuple[float, float]:
    """Return log(1 / (1 + ratio^2)) and log(ratio^2 / (1 + ratio^2)), exact at any size."""
    if ratio < 1:
        log_whole = math.log1p(ratio * ratio)
        return -log_whole, 2 * math.log(ratio) - log_whole
    log_excess = math.log1p(ratio**-2)
    return -2 * math.log(ratio) - log_excess, -log_excess


def _log_beta_half(a: float) -> float:
    """Return log B(a, 1/2) = log(pi)/2 + log G(a) - log G(a + 1/2)."""
    if a < 32:
        return math.log(math.pi) / 2 + math.lgamma(a) - math.lgamma(a + 0.5)
    # The two logarithms grow like a log a, and their difference would lose that many digits.
    return math.log(math.pi / a) / 2 + 1 / (8 * a) - 1 / (192 * a**3) + 1 / (640 * a**5)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Return 1 + d(1)/(1 + d(2)/(1 + ...)) of DLMF 8.17.22, x < (a + 1) / (a + b + 2).

    By Lentz's method: the ratios of neighbouring numerators and denominators, multiplied up.
    """
    numerators, denominators, fraction = 1.0, math.inf, 1.0
    for k in count(1):
        m = k // 2
        if k % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        numerators = 1 + d / numerators or 1e-300  # 0 would divide the next one
        denominators = 1 + d / denominators or 1e-300
        fraction *= numerators / denominators
        if not abs(numerators / denominators - 1) > 1e-15:  # a nan ends it too
            break
    return fraction


def _deviation(values: Sequence[float]) -> float:
    if min(values) == max(values):
        return 0.0  # the mean of equal numbers can be off by a rounding, and they would not be
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _phi(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the normal distribution function, element by element; numpy has no erf."""
    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in z.tolist()])


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
