"""What a few seeds can show: every test equals scipy.stats' own, and keeps the laws of its kind."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from lengthen.util.errors import SettingError
from lengthen.util.stats import (
    all_against_none,
    holm,
    interval,
    paired,
    pearson,
    power,
    smallest_effect,
    stands_apart,
    student_quantile,
    student_two_sided,
)

LOSSES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)
PROBABILITIES = st.lists(st.floats(0, 1), max_size=12)
NUMBERS = st.floats(-1e100, 1e100)


def exactly(value: float, relative: float = 1e-10) -> object:
    return pytest.approx(value, rel=relative, abs=0)


@given(t=st.floats(allow_nan=False), freedom=st.floats(1, 1e6))
def test_a_p_value_is_a_probability_at_any_t_even_infinite(t: float, freedom: float) -> None:
    p = student_two_sided(t, freedom)
    assert 0 <= p <= 1
    assert p == student_two_sided(-t, freedom)


@given(t=st.floats(-1e150, 1e150))
def test_with_one_degree_of_freedom_it_is_the_angle_that_cauchy_gives(t: float) -> None:
    assert student_two_sided(t, 1) == exactly(2 / math.pi * math.atan2(1, abs(t)))


@given(p=st.floats(1e-100, 0.5), freedom=st.floats(1, 1e4))
def test_a_quantile_leads_back_to_its_probability(p: float, freedom: float) -> None:
    assert student_two_sided(student_quantile(p, freedom), freedom) / 2 == exactly(p)


@given(values=LOSSES, confidence=st.floats(0.5, 0.999))
def test_an_interval_equals_that_of_scipy(values: list[float], confidence: float) -> None:
    assume(np.std(values) > 1e-6)
    ours = interval(values, confidence)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-8, abs=1e-8)
    assert ours.mean == pytest.approx(np.mean(values), rel=1e-8, abs=1e-8)


def test_one_value_has_a_mean_and_no_interval() -> None:
    ours = interval([4.5])
    assert (ours.mean, ours.low, ours.high, ours.n) == (4.5, None, None, 1)


def test_an_interval_of_nothing_or_of_no_confidence_is_refused() -> None:
    with pytest.raises(SettingError, match="values: must have at least one number"):
        interval([])
    with pytest.raises(SettingError, match="confidence: must lie between 0 and 1, got 95"):
        interval([1.0, 2.0], 95)


@given(differences=LOSSES)
def test_a_paired_test_equals_that_of_scipy(differences: list[float]) -> None:
    assume(np.std(differences) > 1e-6)
    ours = paired(differences)
    theirs = stats.ttest_rel(differences, [0.0] * len(differences))
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-7)
    assert ours.sd == pytest.approx(np.std(differences, ddof=1))
    assert (ours.mean, ours.low, ours.high, ours.n) == (
        interval(differences).mean,
        interval(differences).low,
        interval(differences).high,
        len(differences),
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -0.1, 1e-300])
@pytest.mark.parametrize("n", [2, 3, 7, 10])
def test_equal_differences_are_certain_and_none_at_all_shows_nothing(value: float, n: int) -> None:
    ours = paired([value] * n)
    assert ours.p == (1 if value == 0 else 0)
    assert ours.sd == 0
    assert ours.low == ours.high == ours.mean == pytest.approx(value)


def test_one_difference_shows_nothing() -> None:
    ours = paired([-3.0])
    assert (ours.mean, ours.low, ours.high, ours.p, ours.n, ours.sd) == (-3, None, None, 1, 1, None)


def test_holm_on_an_example_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@given(p_values=PROBABILITIES)
def test_holm_keeps_the_order_and_lies_between_the_p_value_and_bonferronis(
    p_values: list[float],
) -> None:
    adjusted = holm(p_values)
    ranking = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert all(adjusted[one] <= adjusted[next_one] for one, next_one in pairwise(ranking))
    for p, after in zip(p_values, adjusted, strict=True):
        assert p <= after <= min(1, len(p_values) * p)


@given(p_values=PROBABILITIES, factor=st.floats(0, 1), data=st.data())
def test_a_smaller_p_value_makes_no_adjusted_one_larger(
    p_values: list[float], factor: float, data: st.DataObject
) -> None:
    assume(p_values)
    which = data.draw(st.integers(0, len(p_values) - 1))
    smaller = [p * factor if index == which else p for index, p in enumerate(p_values)]
    assert all(new <= old for new, old in zip(holm(smaller), holm(p_values), strict=True))


@pytest.mark.parametrize("n", [1, 3, 8])
def test_all_against_none_is_as_likely_as_the_worst_chance_of_diverging_makes_it(n: int) -> None:
    q = np.linspace(0, 1, 1001)
    assert all_against_none(n) == pytest.approx((2 * q**n * (1 - q) ** n).max())


@given(values=st.lists(st.floats(-9, 9), min_size=3, max_size=12))
def test_a_value_stands_apart_where_grubbs_test_of_the_textbooks_says_so(
    values: list[float],
) -> None:
    n, gap = len(values), max(abs(np.array(values) - np.mean(values)))
    t = stats.t.isf(0.01 / (2 * n), n - 2)
    critical = (n - 1) / np.sqrt(n) * np.sqrt(t**2 / (n - 2 + t**2))
    statistic = gap / np.std(values, ddof=1) if np.std(values) > 1e-6 else 0.0
    assume(abs(statistic - critical) > 1e-6 and np.std(values) > 1e-6)
    assert stands_apart(values) == (statistic > critical)


def test_among_normal_values_one_stands_apart_as_seldom_as_alpha_says() -> None:
    rows = np.random.default_rng(6).standard_normal((2_000, 6)).tolist()
    assert 0 < sum(map(stands_apart, rows)) / len(rows) < 0.02


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 6, 0.05 / 45, 1e-4])
@pytest.mark.parametrize("n", [2, 3, 5, 8, 12, 100])
def test_power_equals_that_of_scipys_noncentral_t(n: int, alpha: float) -> None:
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    for effect in (0, 0.1, 0.5, 1, 2, 3, 10):
        shift = effect * math.sqrt(n)
        theirs = stats.nct.sf(critical, n - 1, shift)
        if shift < 6:  # beyond, the other side has less than 1e-9, and scipy may say nan
            theirs += stats.nct.cdf(-critical, n - 1, shift)
        assert power(n, effect, alpha) == pytest.approx(theirs, abs=1e-6)


@given(
    n=st.integers(2, 40),
    effect=st.floats(0, 5),
    more=st.floats(0, 2),
    alpha=st.floats(1e-3, 0.2),
)
def test_power_grows_with_effect_pairs_and_alpha_from_alpha_on(
    n: int, effect: float, more: float, alpha: float
) -> None:
    rounding = 1e-6
    seen = power(n, effect, alpha)
    assert power(n, 0, alpha) == pytest.approx(alpha, abs=rounding)
    assert alpha - rounding <= seen <= 1
    assert seen == power(n, -effect, alpha)
    assert seen <= power(n, effect + more, alpha) + rounding
    assert seen <= power(n + 1, effect, alpha) + rounding
    assert seen <= power(n, effect, alpha * (1 + more)) + rounding


@pytest.mark.parametrize("n", [2, 3, 5, 8, 12])
@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.95])
def test_the_smallest_effect_is_seen_with_just_the_power_wanted(n: int, wanted: float) -> None:
    effect = smallest_effect(n, 0.05 / 6, wanted)
    assert power(n, effect, 0.05 / 6) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "alpha", "wanted", "message"),
    [
        (1, 0.05, 0.8, "n: must be at least 2, got 1"),
        (5, 5, 0.8, "alpha: must lie between 0 and 1, got 5"),
        (5, 0.05, 1, "power_wanted: must lie between 0 and 1, got 1"),
    ],
)
def test_power_that_cannot_be_is_refused(n: int, alpha: float, wanted: float, message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}$"):
        smallest_effect(n, alpha, wanted)


@given(pairs=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=40))
def test_correlation_equals_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    x, y = zip(*pairs, strict=True)
    # scipy warns where values are all but constant; we need not agree on rounding errors.
    assume(all(np.ptp(v) > 1e-6 * np.max(np.abs(v)) > 1e-100 for v in (x, y)))
    ours = pearson(x, y)
    theirs = stats.pearsonr(x, y)
    assert ours is not None
    assert ours.r == pytest.approx(theirs.statistic, abs=1e-9)
    assume(abs(ours.r) < 1 - 1e-6)  # nearer to 1 the last digit of r decides p
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-9)


def test_the_p_of_a_long_run_equals_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(20_000)
    y = x + 5 * rng.standard_normal(20_000)
    ours = pearson(x.tolist(), y.tolist())
    theirs = stats.pearsonr(x, y)
    assert ours is not None
    assert ours.r == pytest.approx(theirs.statistic, rel=1e-10)
    assert 1e-300 < ours.p < 1e-100
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-8)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1.0, 2.0], [1.0, 3.0]),
        ([0.1] * 7, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        ([1.0, 2.0, 3.0], [0.0] * 3),
        ([1.0, 2.0, math.nan], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [1.0, math.inf, 3.0]),
    ],
)
def test_correlation_is_none_where_it_is_not_defined(x: list[float], y: list[float]) -> None:
    assert pearson(x, y) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_a_straight_line_is_certain(sign: int) -> None:
    ours = pearson([1.0, 2.0, 3.0, 4.0], [sign * v for v in (1.0, 2.0, 3.0, 4.0)])
    assert ours is not None
    assert ours.r == pytest.approx(sign)
    assert ours.p < 1e-6


def test_inputs_of_different_length_are_refused() -> None:
    with pytest.raises(SettingError, match="y: must be as long as x \\(3\\), got 2"):
        pearson([1.0, 2.0, 3.0], [1.0, 2.0])


@given(pairs=st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=60))
def test_the_effective_number_lies_between_3_and_the_pairs_and_never_adds_certainty(
    pairs: list[tuple[float, float]],
) -> None:
    x, y = zip(*pairs, strict=True)
    ours = pearson(x, y)
    assume(ours is not None)
    assert ours is not None
    assert 3 <= ours.effective_n <= ours.n == len(pairs)
    assert ours.p_effective >= ours.p


def autoregression(rng: np.random.Generator, n: int, memory: float) -> list[float]:
    values = [0.0]
    for shock in rng.standard_normal(n - 1).tolist():
        values.append(memory * values[-1] + shock)
    return values


def test_unrelated_runs_that_remember_look_related_only_without_the_effective_number() -> None:
    rng = np.random.default_rng(2)
    naive = effective = 0
    for _ in range(300):
        ours = pearson(autoregression(rng, 300, 0.9), autoregression(rng, 300, 0.9))
        assert ours is not None
        naive += ours.p <= 0.05
        effective += ours.p_effective <= 0.05
    assert naive > 90  # of 15 that chance would give
    assert effective < 30
