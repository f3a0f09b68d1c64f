"""A Python function as a pacing: the contract is checked at every step, its values are recorded."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError
from typing import Any

import numpy as np
import pytest

from lengthen.core.custom_pacing import Custom, settings_of
from lengthen.core.schedule import Schedule, spans, steps
from lengthen.util.errors import SettingError


def doubling(step: int) -> int:
    return min(64, 8 << (step // 4))


def fails(step: int) -> int:
    return {0: 8}[step]


def test_it_gives_the_function_s_values_each_worked_out_once_and_in_order() -> None:
    calls = []

    def counted(step: int) -> int:
        calls.append(step)
        return doubling(step)

    pacing = Custom(counted, end=64)
    assert [pacing(step) for step in (5, 0, 5, 12)] == [16, 8, 16, 64]
    assert calls == [*range(13)]
    assert pacing.start == 8


def test_two_threads_get_the_same_values() -> None:
    met = Barrier(2)

    def slow(step: int) -> int:
        with suppress(BrokenBarrierError):  # both work out the same step, as far as they can
            met.wait(0.05)
        return doubling(step)

    pacing = Custom(slow, end=64)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: [pacing(step) for step in range(9)], range(2)))
    assert found == [[doubling(step) for step in range(9)]] * 2


def test_numpy_s_whole_numbers_are_whole_numbers() -> None:
    value = Custom(lambda step: np.int64(8 + step), end=64)(3)
    assert (value, type(value)) == (11, int)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda step: 16 - step, "must return from 16 to 64 at step 1, never less than before"),
        (lambda step: 63 + step, "must return from 64 to 64 at step 2, never less than before"),
        (lambda _: 0, "must return from 1 to 64 at step 0, never less than before, got 0"),
        (lambda _: 8.0, "must return a whole number; "),
        (lambda _: True, "must return a whole number; "),
        (lambda _: None, "must return a whole number; "),
        (fails, f"{__name__}.fails(1) raised KeyError: 1"),
    ],
)
def test_a_function_that_breaks_the_contract_is_one_line(
    function: Callable[[int], Any], message: str
) -> None:
    pacing = Custom(function, end=64)
    with pytest.raises(SettingError) as error:
        pacing(3)
    assert str(error.value).startswith(f"pacing.function: {message}")
    assert "\n" not in str(error.value)


def test_what_is_no_function_is_refused() -> None:
    name: Any = "mine.doubling"
    with pytest.raises(SettingError, match=r"^function: must be a Python function"):
        Custom(name, end=64)


def test_its_record_is_the_first_step_of_each_value() -> None:
    pacing = Custom(doubling, end=64)
    assert pacing.record(10) == [[0, 8], [4, 16], [8, 32]]
    assert pacing.record(0) == []
    Custom(doubling, end=64).check_record([[0, 8], [4, 16], [8, 32]], 10)
    with pytest.raises(SettingError, match=r"^pacing.function: gives other values than those of"):
        Custom(lambda _: 8, end=64).check_record([[0, 8], [4, 16], [8, 32]], 10)
    assert settings_of(pacing) == {
        "kind": "custom",
        "of": "length",
        "function": f"{__name__}.doubling",
        "end": 64,
    }


@pytest.mark.parametrize("budget", [600, 3_000, 20_000])
def test_spans_of_a_schedule_are_its_steps(budget: int) -> None:
    schedule = Schedule(
        pacing=Custom(doubling, end=64),
        full_length=64,
        rows=6,
        budget=budget,
        learning_rate=1.0,
        min_learning_rate=0.0,
        warmup_steps=3,
        decay_tokens=budget,
    )
    one_by_one = [(plan.rows, plan.length) for _, plan in steps(schedule)]
    together = [(s.rows, s.length) for s in spans(schedule) for _ in range(s.steps)]
    assert together == one_by_one


def test_spans_ask_the_function_for_no_more_steps_than_are_wanted() -> None:
    calls = []

    def never_at_its_end(step: int) -> int:
        calls.append(step)
        assert step < 100  # of a budget that has 10^6
        return min(32, 8 + step)

    schedule = Schedule(
        pacing=Custom(never_at_its_end, end=64),
        full_length=64,
        rows=1,
        budget=32 * 10**6,
        learning_rate=1.0,
        min_learning_rate=0.0,
        warmup_steps=0,
        decay_tokens=1,
    )
    assert sum(span.steps for span in spans(schedule, 50)) == 50
    assert calls == [*range(50)]
