"""The clock: what step t looks like, in whole numbers."""

import json
import math
from dataclasses import asdict, replace
from itertools import groupby, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.core.pacing import Adaptive, Constant, Linear, Pacing, Root, Staged
from lengthen.core.schedule import Clock, Schedule, crossed, spans, steps, warmup_steps


def schedule(
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
        peak=1.0,
        minimum=0.1,
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
    plan = schedule(pacing, rows=rows, hold=hold, budget=budget)
    end, length = Clock(), 0
    for clock, shape in steps(plan):
        assert 1 <= shape.rows <= plan.most_rows
        end, length = plan.after(clock, shape), shape.length
    next_length = plan.length(end)
    assert budget - next_length < end.tokens <= budget
    assert length <= next_length


PACINGS = st.one_of(
    st.builds(Linear, start=st.integers(1, 64), end=st.just(64), duration=st.integers(0, 80)),
    st.builds(Root, start=st.just(8), end=st.just(48), duration=st.integers(0, 80)),
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
    plan = schedule(pacing, hold=hold, budget=budget, warmup=warmup)
    walked = list(islice(steps(plan, calm=calm), most))
    shapes = ((shape.rows, shape.length) for _, shape in walked)
    expected = [(len(list(same)), *shape) for shape, same in groupby(shapes)]
    found = list(spans(plan, most, calm=calm))
    # Growing rows can be cut by the budget to those of the step before.
    alike = groupby(found, key=lambda span: (span.rows, span.length))
    assert [(sum(one.steps for one in same), *shape) for shape, same in alike] == expected
    assert len(expected) <= len(found) <= len(expected) + 1
    clocks = [
        plan.after(span.clock, span.shape, number) for span in found for number in range(span.steps)
    ]
    # What an adaptive pacing has observed by then is no part of a span.
    plain = [replace(clock, grown=None) for clock, _ in walked]
    assert [replace(clock, grown=None) for clock in clocks] == plain
    assert [plan.rate(clock) for clock in clocks] == [shape.rate for _, shape in walked]


def test_held_rows_make_short_steps_smaller_and_held_tokens_do_not() -> None:
    assert schedule(SLW).rows_at(Clock()) * 8 == 64
    assert schedule(SLW, hold="tokens").rows_at(Clock()) * 8 == 8 * 64
    assert schedule(SLW, hold="tokens").most_rows == 64


def test_paced_rows_keep_the_full_length() -> None:
    paced = schedule(Linear(of="rows", start=1, end=8, duration=7, multiple=1))
    shapes = [(shape.rows, shape.length) for _, shape in steps(paced)][:9]
    assert shapes == [(min(8, 1 + t), 64) for t in range(9)]


def test_a_matching_rows_warmup_has_the_same_tokens_at_every_step() -> None:
    rows = Linear(of="rows", start=1, end=8, duration=50, multiple=1)
    by_length = [shape.tokens for _, shape in steps(schedule(SLW))]
    by_rows = [shape.tokens for _, shape in steps(schedule(rows))]
    assert by_length == by_rows


def test_the_rate_warms_up_in_steps_and_reaches_its_peak_at_the_last() -> None:
    plan = schedule(SLW, warmup=10)
    rates = [shape.rate for _, shape in steps(plan)][:10]
    assert rates == pytest.approx([(t + 1) / 10 for t in range(10)])


def test_the_decay_begins_at_the_tokens_trained_before_step_w() -> None:
    plan = schedule(SLW, warmup=10)
    before = sum(plan.length(Clock(t)) * 8 for t in range(10))
    clock = next(clock for clock, _ in steps(plan) if clock.step == 10)
    later = next(clock for clock, _ in steps(plan) if clock.step == 30)
    assert clock.origin == clock.tokens == later.origin == before
    assert plan.rate(clock) == plan.peak


def test_the_rate_is_a_cosine_of_tokens_not_of_steps() -> None:
    plan = schedule(Constant(end=64), warmup=2, budget=8 * 64 * 102)
    halfway = Clock(step=52, tokens=8 * 64 * 52, origin=8 * 64 * 2)
    assert plan.rate(halfway) == pytest.approx(0.1 + 0.9 / 2)
    # The same tokens after twice the steps: the same rate.
    assert plan.rate(Clock(104, halfway.tokens, halfway.origin)) == plan.rate(halfway)


def test_the_rate_stays_at_its_minimum_behind_decay_tokens() -> None:
    plan = schedule(Constant(end=64), decay=1000)
    assert plan.rate(Clock(5, 5000, 0)) == pytest.approx(0.1)


def test_without_a_warmup_the_decay_begins_at_once() -> None:
    plan = schedule(SLW, warmup=0)
    assert plan.rate(Clock()) == plan.peak
    second = plan.after(Clock(), next(steps(plan))[1])
    assert second.origin == 0
    assert plan.rate(second) < plan.peak


def test_a_warmup_given_in_tokens_counts_steps_at_the_start_length() -> None:
    # 375M tokens at s = 100 and 2048 rows: "about 1.8K steps" (paper.md 2.4).
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
    clock = Clock(step=1, tokens=2**60 + 1)
    plan = schedule(Constant(end=64), budget=2**62)
    shape = plan.shape(clock)
    assert shape is not None
    assert plan.after(clock, shape).tokens == 2**60 + 1 + 8 * 64


@given(
    step=st.integers(0, 2**70),
    tokens=st.sampled_from([2**31, 2**53, 2**62]),
    more=st.integers(-3, 3),
)
def test_f37_a_clock_comes_back_from_json_to_the_last_digit(
    step: int, tokens: int, more: int
) -> None:
    clock = Clock(step=step, tokens=tokens + more, origin=tokens - more)
    assert Clock(**json.loads(json.dumps(asdict(clock)))) == clock
