"""The clock: what step t looks like, in whole numbers."""

import json
import math
from dataclasses import asdict, replace
from itertools import groupby, islice, pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.core.pacing import Adaptive, Constant, Doubling, Linear, Pacing, Root, Staged
from lengthen.core.schedule import (
    Counters,
    RateByTokens,
    RateSchedule,
    Schedule,
    crossed,
    spans,
    steps,
    warmup_steps,
)


def schedule_of(
    pacing: Pacing,
    *,
    budget: int = 100_000,
    rows: int = 8,
    warmup: int = 0,
    decay: int | None = None,
    hold: str = "rows",
) -> Schedule:
    return Schedule(
        pacing=pacing,
        full_length=64,
        rows=rows,
        hold="tokens" if hold == "tokens" else "rows",
        budget=budget,
        learning_rate=1.0,
        min_learning_rate=0.1,
        warmup_steps=warmup,
        decay_tokens=decay or budget,
    )


SLW = Linear(start=8, end=64, duration=50, multiple=8)


@given(
    start=st.integers(1, 64),
    duration=st.integers(0, 80),
    rows=st.integers(1, 40),
    hold=st.sampled_from(["rows", "tokens"]),
    budget=st.integers(64, 60_000),
)
def test_a_budget_is_never_exceeded_and_missed_by_less_than_a_row(
    start: int, duration: int, rows: int, hold: str, budget: int
) -> None:
    pacing = Linear(start=start, end=64, duration=duration, multiple=8)
    schedule = schedule_of(pacing, rows=rows, hold=hold, budget=budget)
    end, length = Counters(), 0
    for counters, plan in steps(schedule):
        assert 1 <= plan.rows <= schedule.most_rows
        end, length = schedule.after(counters, plan), plan.length
    next_length = schedule.length(end)
    assert budget - next_length < end.tokens <= budget
    assert length <= next_length


PACINGS = st.one_of(
    st.builds(Linear, start=st.integers(1, 64), end=st.just(64), duration=st.integers(0, 80)),
    st.builds(Root, start=st.just(8), end=st.just(48), duration=st.integers(0, 80)),
    st.builds(Doubling, start=st.integers(1, 64), end=st.just(64), duration=st.integers(0, 80)),
    st.just(Linear(of="rows", start=1, end=8, duration=50, multiple=1)),
    st.just(Staged(values=(8, 8, 32, 64, 64), boundaries=(3, 9, 20, 30))),
    st.just(Constant(end=64)),
    st.builds(
        Adaptive,
        start=st.sampled_from([1, 8, 13, 64]),
        end=st.just(64),
        multiple=st.sampled_from([5, 8]),
        every=st.integers(1, 6),
        patience=st.integers(1, 4),
        max_hold=st.integers(6, 15),
    ),
)


@given(
    pacing=PACINGS,
    hold=st.sampled_from(["rows", "tokens"]),
    budget=st.integers(64, 60_000),
    most=st.none() | st.integers(0, 120),
    warmup=st.integers(0, 90),
    calm=st.booleans(),
)
def test_spans_are_the_steps_with_those_of_one_shape_at_once(
    pacing: Pacing, hold: str, budget: int, most: int | None, warmup: int, calm: bool
) -> None:
    hold = "rows" if pacing.of == "rows" else hold
    schedule = schedule_of(pacing, hold=hold, budget=budget, warmup=warmup)
    walked = list(islice(steps(schedule, calm=calm), most))
    shapes = ((plan.rows, plan.length) for _, plan in walked)
    expected = [(len(list(same)), *plan) for plan, same in groupby(shapes)]
    found = list(spans(schedule, most, calm=calm))
    # Growing rows can be cut by the budget to those of the step before.
    alike = groupby(found, key=lambda span: (span.rows, span.length))
    assert [(sum(one.steps for one in same), *plan) for plan, same in alike] == expected
    assert len(expected) <= len(found) <= len(expected) + 1
    clocks = [
        schedule.after(span.counters, span.plan, number)
        for span in found
        for number in range(span.steps)
    ]
    # What an adaptive pacing has observed by then is no part of a span.
    plain = [replace(counters, adaptive=None) for counters, _ in walked]
    assert [replace(counters, adaptive=None) for counters in clocks] == plain
    assert [schedule.learning_rate_at(counters) for counters in clocks] == [
        plan.learning_rate for _, plan in walked
    ]
    for middle in {len(walked) // 3, len(walked) * 2 // 3} if walked else ():
        counters = walked[middle][0]
        rest = spans(schedule, most, calm=calm, counters=counters)
        assert sum(one.steps for one in rest) == len(walked) - middle
        assert all(one.steps > 0 for one in spans(schedule, calm=True, counters=counters))


def test_rows_are_cut_in_place_where_tokens_are_held_and_lengths_divide_the_full_one() -> None:
    def mistakes(pacing: Pacing, hold: str = "tokens") -> list[tuple[str, str, object]]:
        return list(replace(schedule_of(pacing, hold=hold), leftovers="in_place").mistakes())

    assert not mistakes(Doubling(start=8, end=64, duration=9))
    assert not mistakes(Adaptive(start=32, end=64, multiple=32))
    divide = 'must have lengths that divide model.length (64) where batch.leftovers is "in_place"'
    assert mistakes(SLW)[0] == ("pacing", divide, 24)
    assert mistakes(Adaptive(start=8, end=64))[0] == ("pacing", divide, 24)
    assert mistakes(Doubling(start=6, end=48, duration=9))[0] == ("pacing", divide, 6)
    needed = ("batch.leftovers", 'needs batch.hold = "tokens"', "in_place")
    assert mistakes(Doubling(start=8, end=64, duration=9), hold="rows") == [needed]
    rows = Doubling(of="rows", start=1, end=8, duration=9)
    # Not that the tokens must be held, which paced rows refuse.
    refused = ("batch.leftovers", 'cannot be "in_place" where rows are paced', "in_place")
    assert mistakes(rows, hold="rows") == [refused]


def test_held_rows_make_short_steps_smaller_and_held_tokens_do_not() -> None:
    assert schedule_of(SLW).rows_at(Counters()) * 8 == 64
    assert schedule_of(SLW, hold="tokens").rows_at(Counters()) * 8 == 8 * 64
    assert schedule_of(SLW, hold="tokens").most_rows == 64


def test_paced_rows_keep_the_full_length() -> None:
    paced = schedule_of(Linear(of="rows", start=1, end=8, duration=7, multiple=1))
    shapes = [(plan.rows, plan.length) for _, plan in steps(paced)][:9]
    assert shapes == [(min(8, 1 + t), 64) for t in range(9)]


def test_a_matching_rows_warmup_has_the_same_tokens_at_every_step() -> None:
    rows = Linear(of="rows", start=1, end=8, duration=50, multiple=1)
    by_length = [plan.tokens for _, plan in steps(schedule_of(SLW))]
    by_rows = [plan.tokens for _, plan in steps(schedule_of(rows))]
    assert by_length == by_rows


def test_the_rate_warms_up_in_steps_and_reaches_its_peak_at_the_last() -> None:
    schedule = schedule_of(SLW, warmup=10)
    rates = [plan.learning_rate for _, plan in steps(schedule)][:10]
    assert rates == pytest.approx([(t + 1) / 10 for t in range(10)])


def test_the_decay_begins_at_the_tokens_trained_before_step_w() -> None:
    schedule = schedule_of(SLW, warmup=10)
    before = sum(schedule.length(Counters(t)) * 8 for t in range(10))
    counters = next(counters for counters, _ in steps(schedule) if counters.step == 10)
    later = next(counters for counters, _ in steps(schedule) if counters.step == 30)
    assert counters.origin == counters.tokens == later.origin == before
    assert schedule.learning_rate_at(counters) == schedule.learning_rate


def test_the_rate_is_a_cosine_of_tokens_not_of_steps() -> None:
    schedule = schedule_of(Constant(end=64), warmup=2, budget=8 * 64 * 102)
    halfway = Counters(step=52, tokens=8 * 64 * 52, origin=8 * 64 * 2)
    assert schedule.learning_rate_at(halfway) == pytest.approx(0.1 + 0.9 / 2)
    # The same tokens after twice the steps: the same rate.
    assert schedule.learning_rate_at(
        Counters(104, halfway.tokens, halfway.origin)
    ) == schedule.learning_rate_at(halfway)


RATES = st.floats(0, 1e3, allow_subnormal=False)


@given(
    kind=st.sampled_from(get_args(RateSchedule)),
    rates=st.tuples(RATES, RATES).map(sorted),
    decay=st.integers(1, 5000),
    share=st.none() | st.floats(0, 1),
    origin=st.integers(0, 3000),
    later=st.lists(st.integers(0, 6000), max_size=20).map(sorted),
)
def test_after_the_warmup_every_rate_falls_in_tokens_from_its_peak_to_its_minimum(
    kind: RateSchedule,
    rates: list[float],
    decay: int,
    share: float | None,
    origin: int,
    later: list[int],
) -> None:
    lowest, peak = rates
    wsd = None if share is None or kind != "wsd" else max(1, round(share * decay))
    schedule = replace(
        schedule_of(SLW, warmup=1, decay=decay, budget=6000),
        rate_schedule=kind,
        wsd_decay_tokens=wsd,
        learning_rate=peak,
        min_learning_rate=lowest,
    )
    assert not list(schedule.mistakes())
    # Neither the step nor anything else but the tokens counts, once the warm-up is over.
    after = [origin + tokens for tokens in later]
    found = [schedule.learning_rate_at(Counters(1, tokens, origin)) for tokens in after]
    assert found == [schedule.learning_rate_at(Counters(99, tokens, origin)) for tokens in after]
    close = 1e-15 * peak
    assert all(one >= other - close for one, other in pairwise(found))
    assert all(lowest - close <= rate <= peak + close for rate in found)
    begins, falls = max(origin, schedule.decay_start), kind != "constant"
    for tokens, rate in zip(after, found, strict=True):
        if tokens <= begins < decay or not falls:  # continuous where the warm-up ends at its peak
            assert rate == pytest.approx(peak, rel=1e-15)
        if tokens >= decay and falls:
            assert rate == pytest.approx(lowest, rel=1e-12, abs=close)
        # No jump: a token takes no more of the fall than half a cosine where it is steepest.
        if begins < decay:
            one_later = schedule.learning_rate_at(Counters(1, tokens + 1, origin))
            steepest = (peak - lowest) / (decay - begins) * math.pi / 2
            assert rate - one_later <= steepest + close


@given(
    pacing=PACINGS,
    budgets=st.tuples(st.integers(2000, 60_000), st.integers(2000, 60_000)).map(sorted),
    wsd=st.none() | st.integers(1, 2000),
    warmup=st.integers(0, 20),
    by_tokens=st.sampled_from(["none", "sqrt"]),
)
def test_up_to_its_decay_a_wsd_run_is_every_longer_one_to_the_last_bit(
    pacing: Pacing, budgets: list[int], wsd: int | None, warmup: int, by_tokens: RateByTokens
) -> None:
    shorter, longer = (
        replace(
            schedule_of(pacing, budget=budget, warmup=warmup),
            rate_schedule="wsd",
            wsd_decay_tokens=wsd,
            rate_by_tokens=by_tokens,
        )
        for budget in budgets
    )
    trunk = [one for one in steps(shorter) if one[0].tokens <= shorter.decay_start]
    assert len(trunk) >= 1
    # The budget may cut the last step.
    whole = [one for one in trunk if one[0].tokens + 8 * 64 <= budgets[0]]
    assert whole == list(islice(steps(longer), len(whole)))


def test_a_wsd_decay_is_a_tenth_of_the_run_and_never_longer_than_it() -> None:
    schedule = replace(schedule_of(Constant(end=64), budget=51_201), rate_schedule="wsd")
    assert schedule.decay_start == 51_201 - 5_121
    name, tokens = "optimizer.wsd_decay_tokens", 51_202
    whole = "must not exceed optimizer.decay_tokens, or else the budget (51201)"
    assert list(replace(schedule, wsd_decay_tokens=tokens).mistakes()) == [(name, whole, tokens)]
    assert not list(replace(schedule, wsd_decay_tokens=51_201).mistakes())
    for kind in ("cosine", "linear", "constant"):
        other = replace(schedule, rate_schedule=kind, wsd_decay_tokens=9)
        assert list(other.mistakes()) == [(name, 'needs optimizer.schedule = "wsd"', 9)]


@given(pacing=PACINGS, budget=st.integers(64, 60_000), warmup=st.sampled_from([0, 9]))
def test_a_rate_by_tokens_is_the_rate_times_the_root_of_the_share_of_a_full_step(
    pacing: Pacing, budget: int, warmup: int
) -> None:
    plain = schedule_of(pacing, budget=budget, warmup=warmup)
    scaled = replace(plain, rate_by_tokens="sqrt")
    for (counters, plan), (_, by_step) in zip(steps(scaled), steps(plain), strict=True):
        share = plan.tokens / (8 * 64)
        assert plan.learning_rate == by_step.learning_rate * math.sqrt(share)
        assert plan == replace(by_step, learning_rate=scaled.step_rate(counters, plan.tokens))
        assert share != 1 or plan == by_step


def test_the_rate_stays_at_its_minimum_after_decay_tokens() -> None:
    schedule = schedule_of(Constant(end=64), decay=1000)
    assert schedule.learning_rate_at(Counters(5, 5000, 0)) == pytest.approx(0.1)


def test_without_a_warmup_the_decay_begins_at_once() -> None:
    schedule = schedule_of(SLW, warmup=0)
    assert schedule.learning_rate_at(Counters()) == schedule.learning_rate
    second = schedule.after(Counters(), next(steps(schedule))[1])
    assert second.origin == 0
    assert schedule.learning_rate_at(second) < schedule.learning_rate


def test_a_warmup_given_in_tokens_counts_steps_at_the_start_length() -> None:
    # 375M tokens at s = 100 and 2048 rows, where the paper says "about 1.8K steps".
    assert warmup_steps(375_000_000, 100, 2048) == math.ceil(375e6 / 100 / 2048) == 1832


@given(every=st.integers(1, 50), sizes=st.lists(st.integers(1, 120), max_size=30))
def test_every_multiple_is_crossed_once(every: int, sizes: list[int]) -> None:
    total = crossings = 0
    for size in sizes:
        crossings += crossed(every, total, total + size)
        total += size
    assert crossings <= total // every
    assert crossings == len({sum(sizes[:i]) // every for i in range(1, len(sizes) + 1)} - {0})


def test_nothing_is_due_where_it_is_switched_off() -> None:
    assert not crossed(0, 0, 1000)


def test_f37_counters_stay_exact_above_what_a_float_holds() -> None:
    counters = Counters(step=1, tokens=2**60 + 1)
    schedule = schedule_of(Constant(end=64), budget=2**62)
    plan = schedule.step_plan(counters)
    assert plan is not None
    assert schedule.after(counters, plan).tokens == 2**60 + 1 + 8 * 64


@given(
    step=st.integers(0, 2**70),
    tokens=st.sampled_from([2**31, 2**53, 2**62]),
    more=st.integers(-3, 3),
)
def test_f37_a_clock_comes_back_from_json_to_the_last_digit(
    step: int, tokens: int, more: int
) -> None:
    counters = Counters(step=step, tokens=tokens + more, origin=tokens - more)
    assert Counters(**json.loads(json.dumps(asdict(counters)))) == counters
