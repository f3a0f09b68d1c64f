"""A duration as a share of the budget: full length begins with the first step at or after it."""

from dataclasses import fields, replace
from fractions import Fraction
from itertools import islice
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lengthen.core.budget_share import BudgetShare
from lengthen.core.pacing import Fixed, Linear, Pacing
from lengthen.core.schedule import Hold, Schedule, spans, steps, with_duration
from lengthen.util.errors import SettingError
from tests.core.test_pacing import PACINGS

LASTING = {kind for kind in get_args(Pacing) if "duration" in {f.name for f in fields(kind)}}


def schedule_of(pacing: Pacing, *, hold: Hold = "rows", rows: int = 8, budget: int) -> Schedule:
    of_rows = pacing.of == "rows"
    return Schedule(
        pacing=pacing,
        full_length=16 if of_rows else pacing.end,
        rows=pacing.end if of_rows else rows,
        hold="rows" if of_rows else hold,
        budget=budget,
        learning_rate=1.0,
        min_learning_rate=0.0,
        warmup_steps=0,
        decay_tokens=budget,
    )


def tokens_before_the_end(schedule: Schedule, duration: int) -> int:
    pacing: Any = schedule.pacing
    paced = replace(schedule, pacing=replace(pacing, duration=duration), budget=10**15)
    return sum(plan.tokens for _, plan in islice(steps(paced), duration))


@given(
    pacing=st.sampled_from(sorted(LASTING, key=str)).flatmap(lambda kind: PACINGS[kind]),
    of=st.sampled_from(["length", "rows"]),
    hold=st.sampled_from(["rows", "tokens"]),
    rows=st.integers(1, 40),
    steps_at_the_end=st.integers(1, 120),
    per_cent=st.integers(1, 1000).map(lambda tenths: f"{tenths / 10}%"),
)
def test_full_length_begins_with_the_first_step_at_or_after_the_share_and_no_shorter_warmup_does(
    pacing: Any, of: Any, hold: Hold, rows: int, steps_at_the_end: int, per_cent: str
) -> None:
    assume(pacing.start < pacing.end)
    share = BudgetShare(per_cent)
    assume(of == "length" or share.share < 1)
    paced = replace(pacing, of=of, duration=share)
    one = schedule_of(paced, hold=hold, rows=rows, budget=1)
    schedule = replace(one, budget=steps_at_the_end * one.rows * one.full_length)
    wanted = Fraction(per_cent[:-1]) / 100 * schedule.budget
    solved: Any = with_duration(schedule).pacing
    assert solved == replace(paced, duration=solved.duration)
    assert tokens_before_the_end(schedule, solved.duration) >= wanted
    shorter = range(max(0, solved.duration - 300), solved.duration)
    assert all(tokens_before_the_end(schedule, duration) < wanted for duration in shorter)


def test_it_is_solved_for_millions_of_steps() -> None:
    pacing = Linear(start=8, end=1024, duration=BudgetShare("30%"))
    schedule = with_duration(schedule_of(pacing, budget=157 * 10**9))
    first = next(span.counters for span in spans(schedule) if span.length == 1024)
    assert first.step > 10**7
    assert 0 <= first.tokens - schedule.budget * 3 // 10 < 8 * 1024


@given(PACINGS[Linear])
def test_a_number_of_steps_stays_as_it_is(pacing: Fixed) -> None:
    schedule = schedule_of(pacing, budget=10**9)
    assert with_duration(schedule) is schedule


@pytest.mark.parametrize(
    "text", ["0%", "0.0%", "-5%", "100.1%", "1000%", "%", "3e1%", "30%%", "x%"]
)
def test_a_share_is_above_nothing_and_at_most_all_of_the_budget(text: str) -> None:
    with pytest.raises(SettingError, match=r"duration: must be above 0% and at most 100%") as error:
        BudgetShare(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pacing", "message"),
    [
        ({"start": 64}, r"pacing.duration: a share needs pacing.start below pacing.end \(64\)"),
        ({"of": "rows", "start": 8}, "pacing.duration: must be below 100%, or no step has all 64"),
    ],
)
def test_a_share_without_a_step_that_ends_it_is_refused(
    pacing: dict[str, Any], message: str
) -> None:
    whole = Linear(**{"end": 64, "duration": BudgetShare("100%"), **pacing})
    with pytest.raises(SettingError, match=message):
        with_duration(schedule_of(whole, budget=10**6))
