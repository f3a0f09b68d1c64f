"""Which steps of a log are unstable, and where: exactly those that are, in any log."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lengthen.analysis.instability import ratios_of, spikes_of
from lengthen.core.loss_ratio import LowestLoss
from tests.logs import Line, bad, metrics, probe, step


def test_a_step_above_the_threshold_or_not_finite_is_unstable() -> None:
    steps = metrics(step(1, None), step(2, 1.2), step(3, 1.21), bad(4)).steps
    assert ratios_of(steps).unstable == (3, 2, 1)
    assert ratios_of(steps).largest == 1.21
    assert ratios_of(steps[:1]).largest is None


@dataclass(frozen=True)
class Planted:
    """Steps of a log, and (highest step, ratio, duration) of every spike that was put in."""

    steps: list[Line]
    spikes: list[tuple[int, float, int]]


@st.composite
def planted_logs(draw: st.DrawFn) -> Planted:
    """Losses that only fall, with spikes of any height and duration between calm stretches."""
    loss, lowest = 10.0, LowestLoss()
    steps: list[Line] = []
    planted = []

    def add(value: float) -> float | None:
        nonlocal lowest
        ratio = lowest.ratio(value)
        steps.append(step(len(steps) + 1, ratio, loss=value))
        lowest = lowest.after(value)
        return ratio

    for calm, heights in draw(
        st.lists(
            st.tuples(
                st.integers(1, 30),
                st.lists(st.floats(1.11, 20.0), min_size=1, max_size=6, unique=True),
            ),
            max_size=8,
        )
    ):
        for _ in range(calm):
            loss *= draw(st.floats(0.9, 1.0, exclude_max=True))
            add(loss)
        first = len(steps) + 1
        ratios = [ratio for height in heights if (ratio := add(height * loss)) is not None]
        planted.append((first + ratios.index(max(ratios)), max(ratios), len(ratios)))
    add(loss)
    return Planted(steps, planted)


@given(planted_logs())
def test_exactly_the_planted_spikes_are_found(log: Planted) -> None:
    steps = metrics(*log.steps).steps
    found = [(spike.step, spike.ratio, spike.duration) for spike in spikes_of(steps)]
    assert found == log.spikes
    ratios = ratios_of(steps)
    worst = sorted(log.spikes, key=lambda spike: (-spike[1], spike[0]))[:5]
    assert [spike.step for spike in ratios.spikes] == [step for step, _, _ in worst]
    known = [s["loss_ratio"] for s in log.steps if s["loss_ratio"] is not None]
    counted = tuple(sum(ratio > threshold for ratio in known) for threshold in (1.1, 1.2, 1.5))
    assert ratios.unstable == counted
    assert ratios.largest == max(known, default=None)


def test_a_step_that_is_not_finite_is_worse_than_any_ratio_and_part_of_its_spike() -> None:
    ratios = ratios_of(
        metrics(step(1, None), step(2, 9.0), step(3), step(4, 1.3), bad(5), step(6)).steps
    )
    assert [(s.step, s.ratio, s.duration) for s in ratios.spikes] == [(5, None, 2), (2, 9.0, 1)]
    assert (ratios.unstable, ratios.not_finite) == ((3, 3, 2), 1)
    assert (ratios.largest, ratios.largest_step) == (9.0, 2)


def test_unstable_steps_at_a_changed_length_or_with_joined_rows_are_told_apart() -> None:
    steps = [step(1), step(2, 1.3), step(3, 1.3, length=72), step(4, 1.3, length=72, joined=0.5)]
    ratios = ratios_of(metrics(*steps, step(5, 1.15, length=80)).steps)
    assert ratios.unstable == (4, 3, 0)
    assert ratios.marked == 2


def test_a_spike_of_the_probe_lasts_in_steps() -> None:
    ratios = ratios_of(metrics(probe(10), probe(20, 1.4), probe(30, 1.2), probe(40)).probes)
    assert [(s.step, s.length, s.duration) for s in ratios.spikes] == [(20, None, 11)]
