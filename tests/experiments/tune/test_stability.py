"""Calm or not calm, decided on curves that were planted, each in every case right."""

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.experiments.tune.trials import RISE, judge

LAST = 60  # steps, judged every second one
STEPS = range(2, LAST + 1, 2)
Losses = Sequence[float | None]


def falling(noise: float = 0.0, seed: int = 0) -> list[float]:
    """A loss that falls from 9 to 6 nats, with noise of that many nats to both sides."""
    chance = random.Random(seed)
    return [6 + 3 * math.exp(-step / 15) + chance.uniform(-noise, noise) for step in STEPS]


def with_spike(height: float, at: int) -> list[float | None]:
    losses: list[float | None] = list(falling())
    lowest = min(loss for loss in losses[:at] if loss is not None)
    losses[at] = lowest + height
    return losses


def word(losses: Losses, last: int = LAST) -> str:
    return judge(list(zip(STEPS, losses, strict=False)), last).verdict


def test_a_falling_curve_is_calm() -> None:
    assert word(falling()) == "calm"


@pytest.mark.parametrize("at", range(1, len(STEPS)))
def test_one_spike_is_not_calm_wherever_it_is(at: int) -> None:
    assert word(with_spike(math.log(RISE) + 1e-9, at)) == "not calm"
    assert word(with_spike(math.log(RISE) - 1e-9, at)) == "calm"


def test_the_threshold_is_130_percent_of_the_lowest_perplexity() -> None:
    assert word([7.0, 7.0 + math.log(1.299)], last=4) == "calm"
    assert word([7.0, 7.0 + math.log(1.301)], last=4) == "not calm"


def test_a_drift_upward_is_not_calm_however_small_its_steps() -> None:
    drift = [6 + 0.01 * max(0, step - 6) for step in STEPS]  # no step rises by 1 %
    assert word(drift) == "not calm"
    assert word(drift[:10]) == "undecided"


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 7, len(STEPS) - 1])
def test_a_diverged_curve_is_not_calm(value: float | None, at: int) -> None:
    losses: list[float | None] = list(falling())
    losses[at:] = [value]
    assert word(losses) == "not calm"


@pytest.mark.parametrize("seed", range(20))
def test_a_noisy_curve_is_calm_while_its_noise_stays_below_the_threshold(seed: int) -> None:
    # Two evaluations can lie twice the noise apart.
    assert word(falling(noise=math.log(RISE) / 2.01, seed=seed)) == "calm"
    assert word(falling(noise=0.5, seed=seed)) == "not calm"


def test_a_rise_counts_from_the_lowest_and_not_from_the_last() -> None:
    assert word([8.0, 6.0, 6.2, 6.3]) == "not calm"
    assert word([6.3, 6.2, 6.0, 6.2], last=8) == "calm"


def test_calm_is_certain_only_at_the_end() -> None:
    losses = falling()
    for count in range(len(losses)):
        assert word(losses[:count]) == "undecided"


def test_a_trial_that_ends_between_two_evaluations_is_judged_at_its_end() -> None:
    assert judge([(2, 7.0), (4, 6.0), (5, 5.9)], last=5).verdict == "calm"


@pytest.mark.parametrize(
    ("curve", "why"),
    [
        ([], "step 0 of 60"),
        ([(2, 8.0), (4, 7.5)], "step 4 of 60"),
        ([(2, 7.0), (4, 7.5)], "1.65 x the lowest so far at step 4"),
        ([(2, 7.0), (4, 70.0)], "e^63 x the lowest so far at step 4"),
        ([(2, 7.0), (4, None)], "not finite at step 4"),
        ([(2, 7.0), (4, 7.1), (60, 6.0)], "never above 1.11 x the lowest so far"),
        ([(60, 6.0)], "never above 1 x the lowest so far"),
    ],
)
def test_it_says_why(curve: Sequence[tuple[int, float | None]], why: str) -> None:
    assert judge(curve, LAST).why == why


@pytest.mark.parametrize(
    ("curve", "rise"),
    [
        ([], "-"),
        ([(2, 8.0), (4, 7.5)], "1 x"),
        ([(2, 7.0), (4, 7.1)], "1.11 x"),
        ([(2, 7.0), (4, 7.5)], "1.65 x"),
        ([(2, 7.0), (4, None)], "not finite"),
        ([(2, 7.0), (4, 7.1), (60, 6.0)], "1.11 x"),
    ],
)
def test_it_says_how_far_it_rose(curve: Sequence[tuple[int, float | None]], rise: str) -> None:
    assert judge(curve, LAST).rise == rise


@given(losses=st.lists(st.none() | st.floats(0, 20), max_size=len(STEPS)))
def test_what_is_not_calm_stays_so_whatever_comes_after(losses: list[float | None]) -> None:
    words = [word(losses[:count]) for count in range(len(losses) + 1)]
    if "not calm" in words:
        assert set(words[words.index("not calm") :]) == {"not calm"}
    assert "calm" not in words[:-1]


@given(losses=st.lists(st.floats(0, 20), min_size=len(STEPS), max_size=len(STEPS)))
def test_it_is_the_definition(losses: list[float]) -> None:
    perplexities = [math.exp(loss) for loss in losses]
    ratios = [p / min(perplexities[:n]) for n, p in enumerate(perplexities) if n]
    if all(abs(ratio - RISE) > 1e-9 for ratio in ratios):
        assert word(losses) == ("not calm" if max(ratios) > RISE else "calm")
