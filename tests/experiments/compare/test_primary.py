"""Primary pairs and their margin: what they promise, whatever the losses are."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from benchmarks import verdicts as simulated
from lengthen.experiments.compare.file import read_comparison
from lengthen.experiments.compare.verdicts import Losses, PairVerdict, Seeds, verdicts
from lengthen.util.errors import SettingError
from tests.experiments.conftest import Written

ROOT = Path(__file__).parents[3]
A, B = "slw", "baseline"
LOST = st.one_of(st.none(), st.just(math.nan))
NEAR = st.floats(4.97, 5.03)
# Most have so many seeds in common that the tests decide, and some have lost ones.
LOSSES = st.dictionaries(st.integers(1, 5), st.one_of(LOST, *6 * [NEAR]), min_size=3, max_size=5)
MARGINS = st.floats(1e-3, 0.1)
WORDS = ("not shown", "not worse", "equivalent")  # each says more than the one before it


def judged(a: Seeds, b: Seeds, margin: float, **others: Seeds) -> PairVerdict:
    return verdicts({B: b, A: a, **others}, primary=[(A, B)], margin=margin)[0]


def within(a: Seeds, b: Seeds, margin: float) -> str:
    return judged(a, b, margin).within or "too few seeds"


@given(data=st.data(), margin=MARGINS)
def test_near_significance_another_variant_changes_no_verdict_on_a_primary_pair(
    data: st.DataObject, margin: float
) -> None:
    """One pair at a p between 0.05 / 6 and 0.05, which six pairs in Holm's family would hide."""
    seeds = range(data.draw(st.integers(3, 6)))
    noise = [data.draw(st.floats(-1, 1)) for _ in seeds]
    center, spread = statistics.fmean(noise), statistics.pstdev(noise)
    assume(spread > 0.1)
    t = stats.t.ppf(1 - data.draw(st.floats(0.005, 0.024)), len(seeds) - 1)
    reach = t * statistics.stdev(noise) / len(seeds) ** 0.5
    a = {seed: 5 + 0.01 * (reach + one - center) for seed, one in zip(seeds, noise, strict=True)}
    b = dict.fromkeys(seeds, 5.0)
    third, fourth = data.draw(LOSSES), data.draw(LOSSES)
    alone, among = judged(a, b, margin), judged(a, b, margin, third=third, fourth=fourth)
    assert alone.verdict == "worse"
    assert repr(among) == repr(alone)


@given(a=LOSSES, b=LOSSES, third=LOSSES, fourth=LOSSES, margin=MARGINS)
def test_another_variant_changes_no_verdict_on_a_primary_pair(
    a: Seeds, b: Seeds, third: Seeds, fourth: Seeds, margin: float
) -> None:
    alone, among = judged(a, b, margin), judged(a, b, margin, third=third, fourth=fourth)
    assert repr(among) == repr(alone)


@given(a=LOSSES, b=LOSSES, margin=MARGINS)
def test_equivalent_is_not_worse_in_both_directions(a: Seeds, b: Seeds, margin: float) -> None:
    one, other = within(a, b, margin), within(b, a, margin)
    assert (one == "equivalent") == (other == "equivalent")
    finished = all(loss is not None and math.isfinite(loss) for loss in (*a.values(), *b.values()))
    if finished:  # two one-sided verdicts are one two-sided verdict
        assert (one == "equivalent") == ({one, other} <= {"not worse", "equivalent"})


@given(a=LOSSES, b=LOSSES, margin=MARGINS, more=st.floats(1, 10))
def test_a_wider_margin_never_shows_less(a: Seeds, b: Seeds, margin: float, more: float) -> None:
    narrow, wide = within(a, b, margin), within(a, b, margin * more)
    if "too few seeds" in (narrow, wide):
        assert narrow == wide
    else:
        assert WORDS.index(narrow) <= WORDS.index(wide)


@given(a=LOSSES, b=LOSSES)
def test_a_pair_turned_round_has_the_opposite_verdict(a: Seeds, b: Seeds) -> None:
    opposite = {"better": "worse", "worse": "better"}
    one = verdicts({A: a, B: b}, primary=[(A, B)])[0].verdict
    other = verdicts({A: a, B: b}, primary=[(B, A)])[0].verdict
    assert other == opposite.get(one, one)


@given(a=LOSSES, b=LOSSES, margin=MARGINS)
def test_a_variant_with_a_diverged_seed_is_within_no_margin(
    a: Seeds, b: Seeds, margin: float
) -> None:
    word = within({**a, 9: None}, b, margin)
    assert word in ("not shown", "too few seeds")
    assert within(a, {**b, 9: None}, margin) != "equivalent"


def test_the_bounds_are_those_of_two_one_sided_tests() -> None:
    a, b = {1: 5.0, 2: 5.01, 3: 4.98, 4: 5.02}, {1: 5.01, 2: 5.0, 3: 5.0, 4: 5.01}
    gaps = [a[seed] - b[seed] for seed in a]
    theirs = stats.ttest_1samp(gaps, 0).confidence_interval(0.9)
    high = float(theirs.high)
    found = judged(a, b, 0.02).bounds
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(theirs))
    for size in (high * 0.99, high * 1.01):
        inside = stats.ttest_1samp(gaps, size, alternative="less").pvalue <= 0.05
        assert (within(a, b, size) != "not shown") == inside


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (
            0.0,
            "slw and baseline are equivalent within 0.02 nats (one-sided bounds -",
        ),
        (-0.1, "slw is not worse than baseline by more than 0.02 nats (one-sided bounds"),
        (0.1, "it is not shown that slw is not worse than baseline by more than 0.02 nats"),
    ],
)
def test_a_sentence_has_both_verdicts(shift: float, words: str) -> None:
    a = {seed: 5 + shift + 0.002 * (-1) ** seed for seed in range(4)}
    sentence = judged(a, dict.fromkeys(range(4), 5.0), 0.02).sentence()
    first, second = sentence.split("; ")[0], sentence.split("; ")[-1]
    assert first.startswith("slw ")
    assert second.startswith(words)


def test_an_exploratory_pair_has_a_difference_and_no_verdict() -> None:
    table: Losses = {
        name: {seed: 5 + gap + 0.01 * (seed % 2) for seed in range(3)}
        for name, gap in ((A, 0.0), (B, 0.5), ("rows", 1.0))
    }
    first, *rest = verdicts(table, primary=[(B, A)], margin=0.02)
    assert (first.a, first.b, first.verdict) == (B, A, "worse")
    assert [(pair.a, pair.b) for pair in rest] == [(A, "rows"), (B, "rows")]
    for pair in rest:
        assert (pair.verdict, pair.p_adjusted, pair.within) == ("exploratory", None, None)
        assert "exploratory: difference -" in pair.sentence()
    alone = replace(rest[0], difference=None)
    assert alone.sentence().endswith("exploratory: fewer than 2 seeds finished in both")


def test_what_the_benchmark_simulates_is_what_the_verdicts_say() -> None:
    rng = np.random.default_rng(7)
    for gaps in 0.01 + 0.02 * rng.standard_normal((50, 2, 5)):
        table: Losses = {
            name: dict(enumerate(row))
            for name, row in zip("abc", [np.zeros(5), *gaps], strict=True)
        }
        found = verdicts(table, primary=[("b", "a"), ("c", "a")], margin=simulated.MARGIN)
        alarm = simulated.p_values(gaps).min() * 2 <= simulated.ALPHA
        assert alarm == any(one.verdict in ("better", "worse") for one in found[:2])
        for one, (low, high) in zip(found, np.transpose(simulated.bounds(gaps)), strict=False):
            assert one.bounds is not None
            assert (one.bounds.low, one.bounds.high) == pytest.approx((low, high))


@pytest.mark.parametrize("seeds", simulated.DECLARED_SEEDS)
def test_no_verdict_on_a_primary_pair_is_false_more_often_than_it_may(seeds: int) -> None:
    for alarms in simulated.declared_alarms(10_000, seeds).values():
        assert 4 < alarms < 5.5


@pytest.mark.parametrize("seeds", simulated.DECLARED_SEEDS)
def test_the_page_on_comparing_has_the_power_of_not_worse(seeds: int) -> None:
    page = " ".join((ROOT / "docs/comparing.md").read_text(encoding="utf-8").split())
    not_worse, _ = simulated.declared_power(10_000, seeds)
    assert f"{seeds} seeds {' / '.join(f'{value:.0f}' for value in not_worse)} %" in page


PAIR = 'primary = [["slw", "baseline"]]\n'
PAIRS = (
    'primary: must be pairs of two variants, each pair once, such as [["slw", "baseline"]], got '
)
WRONG = {
    "no variant": (
        'primary = [["slv", "baseline"]]\n',
        "primary: no such variant, got 'slv'; did you mean 'slw'?",
    ),
    "itself": ('primary = [["slw", "slw"]]\n', f"{PAIRS}['slw', 'slw']"),
    "twice": (
        'primary = [["slw", "baseline"], ["baseline", "slw"]]\n',
        f"{PAIRS}['baseline', 'slw']",
    ),
    "no pair": ('primary = ["slw"]\n', f"{PAIRS}'slw'"),
    "none": ("primary = []\n", f"{PAIRS}[]"),
    "no margin": (f"{PAIR}margin = 0\n", "margin: must be a number of nats above 0, got 0"),
    "no number": (f"{PAIR}margin = true\n", "margin: must be a number of nats above 0"),
    "huge": (f"{PAIR}margin = 1{400 * '0'}\n", "margin: must be a number of nats above 0, got 100"),
    "endless": (f"{PAIR}margin = inf\n", "margin: must be a number of nats above 0"),
    "margin alone": ("margin = 0.02\n", "margin: needs primary, the pairs that it is for"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_in_primary_pairs_is_one_line(written: Written, mistake: str) -> None:
    top, message = WRONG[mistake]
    with pytest.raises(SettingError) as caught:
        read_comparison(written(**{"baseline =": f"{top}baseline ="}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
