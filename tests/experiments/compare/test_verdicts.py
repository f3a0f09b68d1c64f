"""Verdicts: planted differences are found, planted nothing is not, divergence never wins."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lengthen.experiments.compare.verdicts import Losses, PairVerdict, Speedup, speedups, verdicts
from lengthen.util.errors import SettingError
from lengthen.util.stats import holm, smallest_effect

NOISE = [0.021, -0.034, 0.012, 0.03, -0.025, 0.004, -0.011, 0.017]
OTHER_NOISE = [-0.015, 0.022, 0.031, -0.008, -0.027, 0.013, 0.019, -0.03]

OneLoss = st.one_of(st.none(), st.floats(1, 9), st.just(math.nan))
TABLES = st.dictionaries(
    st.sampled_from(["baseline", "slw", "rows", "tokens", "two-stage"]),
    st.dictionaries(st.integers(1, 8), OneLoss, max_size=8),
    max_size=5,
)


def by_seed(losses: Sequence[float | None]) -> dict[int, float | None]:
    return dict(enumerate(losses, start=1))


def around(mean: float, noise: Sequence[float], seeds: int = 5) -> dict[int, float | None]:
    return by_seed([mean + shift for shift in noise[:seeds]])


def one_verdict(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> PairVerdict:
    (verdict,) = verdicts({"slw": a, "baseline": b})
    return verdict


def test_a_planted_5_percent_is_called_better() -> None:
    slw, baseline = around(4.75, NOISE), around(5.0, OTHER_NOISE)
    assert one_verdict(slw, baseline).verdict == "better"
    assert one_verdict(baseline, slw).verdict == "worse"


def test_the_same_recipe_under_two_names_is_not_distinguishable() -> None:
    verdict = one_verdict(around(5.0, NOISE), around(5.0, NOISE))
    assert verdict.verdict == "not distinguishable"
    assert verdict.p_adjusted == 1


def test_the_same_mean_with_other_noise_is_not_distinguishable() -> None:
    assert (
        one_verdict(around(5.0, NOISE), around(5.0, OTHER_NOISE)).verdict == "not distinguishable"
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_3_seeds_are_too_few_for_any_difference(seeds: int) -> None:
    verdict = one_verdict(around(1.0, NOISE, seeds), around(9.0, OTHER_NOISE, seeds))
    assert verdict.verdict == "too few seeds"
    assert (verdict.p_adjusted, verdict.smallest_effect) == (None, None)


def test_only_seeds_that_finished_in_both_are_compared() -> None:
    a = {1: 4.0, 2: 4.1, 3: 4.2, 7: 1.0}
    b = {3: 5.25, 2: 5.05, 1: 5.0, 9: 1.0}
    verdict = one_verdict(a, b)
    assert verdict.seeds == 3
    assert verdict.difference is not None
    assert verdict.difference.mean == pytest.approx(-1)
    assert verdict.difference.p == pytest.approx(stats.ttest_rel([4, 4.1, 4.2], [5, 5.05, 5.25])[1])


@pytest.mark.parametrize("lost", [None, math.nan, math.inf])
def test_a_diverged_variant_is_never_better_and_the_other_never_worse(lost: float | None) -> None:
    diverged = {**around(4.0, NOISE, 8), 8: lost}
    baseline = around(5.0, OTHER_NOISE, 8)
    for one, other, lost_seeds in ((diverged, baseline, (1, 0)), (baseline, diverged, (0, 1))):
        verdict = one_verdict(one, other)
        assert verdict.verdict == "not distinguishable"
        assert verdict.p_adjusted is not None
        assert verdict.p_adjusted < 1e-6
        assert verdict.diverged == lost_seeds


def test_a_diverged_variant_may_well_be_worse() -> None:
    diverged = {**around(6.0, NOISE, 8), 8: None}
    baseline = around(5.0, OTHER_NOISE, 8)
    assert one_verdict(diverged, baseline).verdict == "worse"
    assert one_verdict(baseline, diverged).verdict == "better"


def test_what_diverged_in_every_seed_is_worse_than_what_did_in_none() -> None:
    nothing, baseline = by_seed([None] * 3), around(5.0, NOISE, 3)
    assert one_verdict(nothing, baseline).verdict == "worse"
    assert one_verdict(baseline, nothing).verdict == "better"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (by_seed([None] * 2), by_seed([5.0, 5.1])),  # too few
        (by_seed([None]), by_seed([5.0, 5.1, 5.2])),  # the others of a have not run
        (by_seed([None] * 3), by_seed([None] * 3)),
        (by_seed([None] * 4), by_seed([5.0, 5.1, 5.2, None])),
        ({}, by_seed([5.0, 5.1, 5.2])),
    ],
)
def test_divergence_in_every_seed_decides_nothing_else(
    a: dict[int, float | None], b: dict[int, float | None]
) -> None:
    assert one_verdict(a, b).verdict == one_verdict(b, a).verdict == "too few seeds"


@pytest.mark.parametrize(("variants", "seeds"), [(2, 3), (3, 4), (4, 4), (6, 5), (7, 5)])
def test_divergence_is_a_test_in_holms_family_like_any_other(variants: int, seeds: int) -> None:
    """One of several variants diverges: as many seeds as Holm's hardest step needs decide it."""
    for n, word in ((seeds, "worse"), (seeds - 1, "too few seeds")):
        table = {f"v{row}": around(5.0, NOISE[row:] + NOISE[:row], n) for row in range(1, variants)}
        found = verdicts({"lost": by_seed([None] * n), **table})[: variants - 1]
        pairs = variants * (variants - 1) / 2
        assert {verdict.verdict for verdict in found} == {word}
        assert found[0].p_adjusted == (None if n < 3 else min(1, pairs * 2 / 4**n))


def test_fewer_seeds_than_a_test_can_decide_are_too_few_for_divergence_too() -> None:
    table = {"lost": by_seed([None] * 3), "b": around(5.0, NOISE), "c": around(5.0, OTHER_NOISE)}
    first, second, _ = verdicts(table)
    assert first.sentence() == (
        "lost and b: too few seeds (lost never finished, b always: p 0.094 after Holm); "
        "lost diverged in 3 seeds"
    )
    assert second.verdict == "too few seeds"


def test_no_verdict_is_false_more_often_than_alpha_where_variants_diverge_by_a_coin() -> None:
    rng, tables, alarms = np.random.default_rng(5), 1_000, 0
    for _ in range(tables):
        losses = 5 + 0.03 * rng.standard_normal((6, 3))
        losses[rng.random((6, 3)) < 0.5] = np.nan
        table = {f"variant {row}": by_seed(losses[row].tolist()) for row in range(6)}
        alarms += any(verdict.verdict in ("better", "worse") for verdict in verdicts(table))
    assert alarms / tables <= 0.05


@pytest.mark.parametrize(
    ("gaps", "apart"),
    [([0.01, -0.02, 0.0, 0.9], True), ([0.01, -0.02, 0.0, 0.04], False), ([0.0, 0.9], False)],
)
def test_a_seed_whose_difference_stands_apart_from_the_others_is_marked(
    gaps: list[float], apart: bool
) -> None:
    baseline = by_seed([5.0] * len(gaps))
    assert one_verdict(by_seed([5 + gap for gap in gaps]), baseline).one_apart is apart


def test_every_pair_is_judged_once_in_the_order_named() -> None:
    table = {name: around(5.0, NOISE) for name in ("slw", "baseline", "rows")}
    pairs = [(verdict.a, verdict.b) for verdict in verdicts(table)]
    assert pairs == [("slw", "baseline"), ("slw", "rows"), ("baseline", "rows")]
    assert verdicts({"alone": around(5.0, NOISE)}) == verdicts({}) == []


def test_the_family_is_all_pairs_and_pairs_without_enough_seeds_count_in_it() -> None:
    table: Losses = {
        "slw": around(4.75, NOISE),
        "baseline": around(5.0, OTHER_NOISE),
        "rows": around(4.98, NOISE[3:]),
        "short": around(4.9, NOISE, 2),
    }
    found = verdicts(table)
    p_values = [v.difference.p if v.difference and v.seeds >= 3 else 1.0 for v in found]
    expected = holm(p_values)
    assert [v.seeds for v in found] == [5, 5, 2, 5, 2, 2]
    assert [v.p_adjusted for v in found] == [
        p if v.seeds >= 3 else None for p, v in zip(expected, found, strict=True)
    ]
    assert found[0].p_adjusted is not None
    assert found[0].difference is not None
    assert found[0].p_adjusted >= 5 * found[0].difference.p


def test_the_smallest_effect_is_in_nats_and_at_holms_hardest_step() -> None:
    table = {name: around(5.0, noise) for name, noise in (("a", NOISE), ("b", OTHER_NOISE))}
    for extra, pairs in ((0, 1), (2, 6)):
        copies = {f"copy {number}": around(5.0, NOISE) for number in range(extra)}
        first = verdicts({**table, **copies})[0]
        assert first.difference is not None
        assert first.difference.sd is not None
        expected = smallest_effect(5, 0.05 / pairs) * first.difference.sd
        assert first.smallest_effect == pytest.approx(expected)


def test_the_interval_has_the_confidence_that_alpha_leaves() -> None:
    table = {"a": around(5.0, NOISE), "b": around(5.0, OTHER_NOISE)}
    (verdict,) = verdicts(table, alpha=0.2)
    gaps = np.subtract(NOISE[:5], OTHER_NOISE[:5])
    theirs = stats.ttest_1samp(gaps, 0).confidence_interval(0.8)
    assert verdict.difference is not None
    assert (verdict.difference.low, verdict.difference.high) == pytest.approx(tuple(theirs))


def test_an_alpha_that_is_no_share_is_refused_even_without_a_pair() -> None:
    with pytest.raises(SettingError, match="^alpha: must lie between 0 and 1, got 5$"):
        verdicts({}, alpha=5)


@given(losses=TABLES)
def test_the_laws_of_any_table(losses: dict[str, dict[int, float | None]]) -> None:
    turned = dict(reversed(losses.items()))
    mirrored = {(v.b, v.a): v.verdict for v in verdicts(turned)}
    opposite = {"better": "worse", "worse": "better"}
    for verdict in verdicts(losses):
        winner = {"better": verdict.diverged[0], "worse": verdict.diverged[1]}
        assert winner.get(verdict.verdict, 0) == 0
        assert mirrored[verdict.a, verdict.b] == opposite.get(verdict.verdict, verdict.verdict)
        assert "\n" not in verdict.sentence()
        assert verdict.sentence().count(verdict.a) >= 1


def test_null_tables_are_called_different_no_more_often_than_alpha_allows() -> None:
    rng, tables, alarms = np.random.default_rng(4), 1_000, 0
    for _ in range(tables):
        seed_effects = rng.standard_normal(5)  # of the order of training data: alike for all
        losses = seed_effects + 0.3 * rng.standard_normal((4, 5))
        table = {f"variant {row}": by_seed(losses[row].tolist()) for row in range(4)}
        alarms += any(verdict.verdict in ("better", "worse") for verdict in verdicts(table))
    # Above 5 % by three standard errors happens to a right program once in a thousand seeds.
    assert alarms / tables <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / tables)
    assert alarms > 0  # a judge that never speaks would pass as well


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        (
            by_seed([4.8, 4.82, 4.79]),
            by_seed([5.0, 5.01, 4.98]),
            "slw is better than baseline by 0.193 nats [0.179, 0.208] over 3 seeds "
            "(p 0.0003 after Holm)",
        ),
        (
            by_seed([5.0, 5.01, 4.98, None]),
            by_seed([4.8, 4.82, 4.79, 4.8]),
            "slw is worse than baseline by 0.193 nats [0.179, 0.208] over 3 seeds "
            "(p 0.0003 after Holm); slw diverged in 1 seed",
        ),
        (
            by_seed([4.8, 4.82, 4.79, None, None]),
            by_seed([5.0, 5.01, 4.98, 5.0, 5.0]),
            "slw and baseline are not distinguishable: difference -0.193 nats [-0.208, -0.179] "
            "over 3 seeds; these seeds can see 0.019 nats at 80 %; "
            "slw diverged in 2 seeds and so is not called better",
        ),
        (
            by_seed([5.0, 5.1, 5.2]),
            by_seed([5.0, 5.1, 5.2]),
            "slw and baseline are not distinguishable: difference 0.000 nats [0.000, 0.000] "
            "over 3 seeds",
        ),
        (
            by_seed([4.8, 4.9]),
            by_seed([5.0, 5.1]),
            "slw and baseline: too few seeds (2 finished in both, 3 are needed)",
        ),
        (
            by_seed([4.8, 4.9, 4.7]),
            by_seed([None, None, None]),
            "slw is better than baseline: baseline never finished (p 0.031 after Holm); "
            "baseline diverged in 3 seeds",
        ),
    ],
)
def test_a_verdict_is_one_plain_sentence(
    a: dict[int, float | None], b: dict[int, float | None], sentence: str
) -> None:
    assert one_verdict(a, b).sentence() == sentence


def test_a_speedup_is_the_geometric_mean_over_the_seeds_that_reached_the_target() -> None:
    found = speedups([8.0, 8.0, 8.0, 8.0], [4.0, 2.0, None, 1.0])
    logs = np.log([2, 4, 8])
    theirs = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert found.ratio == pytest.approx(4)
    assert (found.low, found.high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))
    assert (found.reached, found.n) == (3, 4)


def test_a_speedup_that_one_seed_or_none_reached_says_so() -> None:
    one, none = speedups([6.0, 6.0], [None, 3.0]), speedups([6.0, 6.0], [None, None])
    assert one.ratio == pytest.approx(2)
    assert (one.low, one.high, one.reached, one.n) == (None, None, 1, 2)
    assert none == Speedup(ratio=None, low=None, high=None, reached=0, n=2)


def test_a_speedup_of_seeds_that_are_not_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        speedups([6.0, 6.0], [3.0])


def test_a_speedup_of_two_seeds_has_no_interval() -> None:
    found = speedups([6.0, 6.0], [3.0, 1.0])
    assert (found.low, found.high, found.reached) == (None, None, 2)
