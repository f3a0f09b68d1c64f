"""Pacings: one contract for every kind, the paper's own figures, and what a file may say."""

import math
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import cycle, pairwise, repeat
from typing import Annotated, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lengthen.core.pacing import (
    Adaptive,
    AdaptiveState,
    Constant,
    Doubling,
    Fixed,
    Linear,
    Pacing,
    Root,
    Staged,
    floor_root,
)
from lengthen.util.errors import SettingError

WHOLE = st.integers(1, 5000)


@st.composite
def growths(draw: st.DrawFn, kind: type[Linear] | type[Root]) -> Fixed:
    start, end = sorted((draw(WHOLE), draw(WHOLE)))
    duration, multiple = draw(st.integers(0, 400)), draw(st.integers(1, 64))
    if kind is Linear:
        return Linear(start=start, end=end, duration=duration, multiple=multiple)
    degree = draw(st.integers(1, 16))
    return Root(start=start, end=end, duration=duration, multiple=multiple, degree=degree)


@st.composite
def doublings(draw: st.DrawFn) -> Doubling:
    start = draw(st.integers(1, 80))
    end = draw(st.integers(start, 5000) | st.integers(0, 6).map(lambda k: start * 2**k))
    return Doubling(start=start, end=end, duration=draw(st.integers(0, 400)))


@st.composite
def stages(draw: st.DrawFn) -> Staged:
    values = sorted(draw(st.lists(WHOLE, min_size=1, max_size=6)))
    count = len(values) - 1
    steps = st.lists(st.integers(1, 400), min_size=count, max_size=count, unique=True)
    return Staged(values=tuple(values), boundaries=tuple(sorted(draw(steps))))


PACINGS: dict[type[Fixed], st.SearchStrategy[Fixed]] = {
    Constant: st.builds(Constant, end=WHOLE),
    Linear: growths(Linear),
    Root: growths(Root),
    Doubling: doublings(),
    Staged: stages(),
}
ALL = st.one_of(*PACINGS.values())


def test_every_kind_keeps_the_contract() -> None:
    assert {*PACINGS, Adaptive} == set(get_args(Pacing))


@given(ALL)
def test_a_value_lies_between_start_and_end_and_never_decreases(pacing: Fixed) -> None:
    values = [pacing(step) for step in range(pacing.duration + 3)]
    assert all(pacing.start <= value <= pacing.end for value in values)
    assert all(one <= later for one, later in pairwise(values))


@given(ALL)
def test_it_begins_at_start_and_has_end_from_its_duration_on_and_not_before(pacing: Fixed) -> None:
    assert pacing(pacing.duration) == pacing(pacing.duration + 10**9) == pacing.end
    if pacing.duration and pacing.start < pacing.end:
        assert pacing(0) == pacing.start
        assert all(pacing(step) < pacing.end for step in range(pacing.duration))


@given(st.one_of(PACINGS[Linear], PACINGS[Root]))
def test_a_growing_value_is_a_multiple_but_for_an_odd_start_or_end(pacing: Linear | Root) -> None:
    values = {pacing(step) for step in range(pacing.duration + 1)}
    assert all(value % pacing.multiple == 0 for value in values - {pacing.start, pacing.end})


@given(doublings())
def test_doubling_takes_powers_of_two_times_its_start_in_equal_shares(pacing: Doubling) -> None:
    values = [pacing(step) for step in range(pacing.duration)]
    powers = [v for k in range(13) if (v := pacing.start * 2**k) < pacing.end]
    assert set(values) <= set(powers or [pacing.end])
    counts = [values.count(power) for power in powers or [pacing.end]]
    assert max(counts) - min(counts) <= 1


def test_a_doubling_whose_end_is_no_power_ends_in_a_stage_of_its_own() -> None:
    doubling = Doubling(start=8, end=48, duration=9)
    assert [doubling(step) for step in range(10)] == [*[8] * 3, *[16] * 3, *[32] * 3, 48]
    doubling = Doubling(start=8, end=32, duration=4)
    assert [doubling(step) for step in range(5)] == [8, 8, 16, 16, 32]


@given(PACINGS[Linear], st.integers(0, 500))
def test_root_of_degree_one_is_linear(linear: Linear, step: int) -> None:
    settings = {**vars(linear), "kind": "root", "degree": 1}
    assert Root(**settings)(step) == linear(step)


@given(value=st.integers(0, 2**700), degree=st.integers(1, 16))
def test_floor_root_is_exact(value: int, degree: int) -> None:
    root = floor_root(value, degree)
    assert root**degree <= value < (root + 1) ** degree


def test_a_root_loses_no_multiple_to_a_float() -> None:
    # (t / T) ** (1/2) = 2/7 at t = 4: 49 * (2/7) is 14, and a float may say 13.999...
    root = Root(start=7, end=56, duration=49, degree=2, multiple=7)
    assert [root(step) for step in (0, 1, 4, 9, 36, 48)] == [7, 14, 21, 28, 49, 49]


def test_linear_rounds_down_to_a_multiple_and_never_below_its_start() -> None:
    linear = Linear(start=10, end=30, duration=10)
    assert [linear(step) for step in range(11)] == [10, 10, 10, 16, 16, 16, 16, 24, 24, 24, 30]
    assert [Linear(start=3, end=6, duration=2)(step) for step in range(3)] == [3, 3, 6]


def test_duration_zero_is_the_baseline() -> None:
    assert Linear(start=8, end=1024, duration=0)(0) == 1024
    assert Constant(end=1024)(0) == 1024


def test_a_boundary_is_the_first_step_of_the_next_stage() -> None:
    # The reference's list of *last* steps, counted from 1, holds the same numbers.
    staged = Staged(values=(128, 512, 1024, 1024), boundaries=(5, 9, 20))
    assert [staged(step) for step in (0, 4, 5, 8, 9, 30)] == [128, 128, 512, 512, 1024, 1024]
    assert (staged.start, staged.end, staged.duration) == (128, 1024, 9)


@given(
    start=st.integers(1, 40), end=st.integers(40, 300), duration=st.integers(1, 500), data=st.data()
)
def test_linear_equals_the_reference_with_steps_shifted_by_one(
    start: int, end: int, duration: int, data: st.DataObject
) -> None:
    """DeepSpeed's formula in exact numbers; it takes t = k on the k-th step, we take k - 1."""
    nth = data.draw(st.integers(1, 2 * duration))
    share = min(Fraction(nth, duration), Fraction(1))
    exact = int(8 * start + share * 8 * (end - start))
    reference = min(exact - exact % 8, 8 * end)
    ours = Linear(start=8 * start, end=8 * end, duration=duration)
    assert ours(nth) == reference  # so step number nth of ours, from 1, is its step nth - 1


@pytest.mark.parametrize(
    ("start", "end", "duration", "rows", "steps_in_thousands"),
    [
        (64, 1024, 45_000, 4096, 58.8),
        (64, 1024, 270_000, 512, 427.6),
        (8, 1024, 60_000, 512, 330.0),
        (8, 2048, 110_000, 512, 205.0),
        (8, 1024, 30_000, 4096, 52.5),
    ],
)
def test_the_paper_runs_take_the_steps_that_follow_from_its_pacing(
    start: int, end: int, duration: int, rows: int, steps_in_thousands: float
) -> None:
    pacing = Linear(start=start, end=end, duration=duration)
    budget = 37_500 * 4096 * 1024
    assert budget == 300_000 * 512 * 1024 == 157_286_400_000
    warmup = rows * sum(pacing(step) for step in range(1, duration + 1))  # the paper's t = 1 .. T
    full = Fraction(budget - warmup, rows * end)
    assert round(float(duration + full) / 1000, 1) == steps_in_thousands
    if rows == 4096 and start == 64:
        assert round(warmup / 1e9, 1) == 99.5


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Linear, {"start": 0}, f"start: must be from 1 to {2**40}, got 0"),
        (Linear, {"start": 9}, "start: must be at most end (8), got 9"),
        (Linear, {"end": 0}, f"end: must be from 1 to {2**40}, got 0"),
        (Linear, {"multiple": 0}, f"multiple: must be from 1 to {2**40}, got 0"),
        (Root, {"duration": -1}, f"duration: must be from 0 to {2**40}, got -1"),
        (Doubling, {"start": 9}, "start: must be at most end (8), got 9"),
        (Doubling, {"duration": 1.5}, "duration: must be a whole number, got 1.5"),
        (Root, {"degree": 17}, "degree: must be from 1 to 16, got 17"),
        (Linear, {"end": True}, "end: must be a whole number, got True"),
        (Linear, {"duration": 9.0}, "duration: must be a whole number, got 9.0"),
        (Root, {"of": "row"}, "of: no such value to pace, got 'row'; did you mean 'rows'?"),
        (Constant, {"end": "8"}, "end: must be a whole number, got '8'"),
        (Staged, {"values": ()}, "values: must have from 1 to 1000 numbers, got ()"),
        (Staged, {"values": (9, 8)}, "values: must not decrease, got (9, 8)"),
        (Staged, {"values": [8, 9]}, "values: must be a tuple of whole numbers, got [8, 9]"),
        (Staged, {"boundaries": ()}, "boundaries: must be one fewer than values (2), got ()"),
        (Staged, {"boundaries": (0,)}, f"boundaries: must be from 1 to {2**40}, got 0"),
        (
            Staged,
            {"values": (1, 2, 3), "boundaries": (5, 5)},
            "boundaries: must increase, got (5, 5)",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(kind: Any, settings: dict[str, Any], message: str) -> None:
    good: dict[Any, dict[str, Any]] = {
        Constant: {"end": 8},
        Linear: {"start": 1, "end": 8, "duration": 9},
        Root: {"start": 1, "end": 8, "duration": 9},
        Doubling: {"start": 1, "end": 8, "duration": 9},
        Staged: {"values": (8, 9), "boundaries": (5,)},
    }
    kind(**good[kind])
    with pytest.raises(SettingError) as error:
        kind(**{**good[kind], **settings})
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["end", "kind", "of"])
def test_a_pacing_is_frozen(name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(Constant(end=8), name, 9)


ADAPTER: TypeAdapter[Pacing] = TypeAdapter(Annotated[Pacing, Field(discriminator="kind")])


@pytest.mark.parametrize(
    ("table", "pacing"),
    [
        ({"kind": "constant", "end": 8}, Constant(end=8)),
        (
            {"kind": "linear", "start": 1, "end": 8, "duration": 9, "multiple": 1, "of": "rows"},
            Linear(start=1, end=8, duration=9, multiple=1, of="rows"),
        ),
        (
            {"kind": "root", "start": 1, "end": 8, "duration": 9, "degree": 3},
            Root(start=1, end=8, duration=9, degree=3),
        ),
        (
            {"kind": "doubling", "start": 1, "end": 8, "duration": 9, "of": "rows"},
            Doubling(start=1, end=8, duration=9, of="rows"),
        ),
        (
            {"kind": "staged", "values": [8, 16], "boundaries": [5]},
            Staged(values=(8, 16), boundaries=(5,)),
        ),
    ],
)
def test_a_table_of_a_file_becomes_a_pacing_and_back(table: dict[str, Any], pacing: Pacing) -> None:
    assert ADAPTER.validate_python(table) == pacing
    assert ADAPTER.validate_python(ADAPTER.dump_python(pacing, mode="json")) == pacing


@pytest.mark.parametrize(
    ("changes", "kind_of_error"),
    [
        ({"duration": 8.5}, "int_from_float"),
        ({"kind": "linaer"}, "union_tag_invalid"),
        ({"of": "tokens"}, "literal_error"),
        ({"start": 9000}, "value_error"),
    ],
)
def test_a_file_with_a_mistake_is_refused(changes: dict[str, Any], kind_of_error: str) -> None:
    table = {"kind": "linear", "start": 8, "end": 64, "duration": 10, **changes}
    with pytest.raises(ValidationError) as refused:
        ADAPTER.validate_python(table)
    (error,) = refused.value.errors()
    assert error["type"] == kind_of_error
    if kind_of_error == "value_error":
        assert isinstance(error["ctx"]["error"], SettingError)


def test_a_pacing_stands_in_a_frozen_model_as_it_is() -> None:
    class Settings(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        pacing: Annotated[Pacing, Field(discriminator="kind")]

    linear = Linear(start=8, end=64, duration=10)
    assert Settings(pacing=linear).pacing is linear
    assert Settings.model_validate(Settings(pacing=linear).model_dump()).pacing == linear


@st.composite
def adaptives(draw: st.DrawFn) -> Adaptive:
    start, end = sorted((draw(st.integers(1, 300)), draw(st.integers(1, 300))))
    every = draw(st.integers(1, 5))
    return Adaptive(
        start=start,
        end=end,
        multiple=draw(st.integers(1, 64)),
        every=every,
        patience=draw(st.integers(1, 4)),
        max_hold=draw(st.integers(every, 20)),
    )


def walked(pacing: Adaptive, losses: Iterator[float], steps: int) -> list[AdaptiveState]:
    """The state after each step, an observation taken whenever one is due."""
    states = [pacing.begin()]
    for step in range(1, steps + 1):
        state = states[-1]
        if pacing.observes(state, step):
            state = pacing.next(state, step, next(losses))
        states.append(state)
    return states


LOSSES = st.lists(st.floats(0, 9) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=30)


@given(adaptives(), LOSSES)
def test_an_adaptive_length_never_falls_and_always_reaches_the_end(
    pacing: Adaptive, losses: list[float]
) -> None:
    states = walked(pacing, cycle(losses), pacing.latest)
    values = [state.value for state in states]
    assert all(values.count(value) <= pacing.max_hold for value in set(values) - {pacing.end})
    assert values[0] == pacing.start
    assert values[-1] == pacing.end
    assert all(one <= later for one, later in pairwise(values))
    inside = set(values) - {pacing.start, pacing.end}
    assert all(value % pacing.multiple == 0 for value in inside)


@given(adaptives())
def test_an_adaptive_length_that_is_never_calm_is_at_its_end_at_the_latest_step_and_not_before(
    pacing: Adaptive,
) -> None:
    values = [state.value for state in walked(pacing, repeat(math.nan), pacing.latest)]
    assert values.index(pacing.end) == pacing.latest


@given(adaptives(), LOSSES)
def test_an_adaptive_length_grows_when_it_was_calm_or_stayed_long_enough_and_only_then(
    pacing: Adaptive, losses: list[float]
) -> None:
    losses_in_turn = cycle(losses)
    state, observed = pacing.begin(), list[float]()
    for step in range(1, 200):
        if not pacing.observes(state, step):
            continue
        observed.append(next(losses_in_turn))
        before, state = state, pacing.next(state, step, observed[-1])
        last = observed[-pacing.patience :]
        finite = [loss for loss in observed if math.isfinite(loss)]
        calm = len(last) == pacing.patience and all(
            math.isfinite(loss) and loss <= min(finite[: finite.index(loss) + 1]) for loss in last
        )
        if step - before.since >= pacing.max_hold or (calm and last == sorted(last, reverse=True)):
            assert state.value > before.value or before.value == pacing.end
            observed = []
        else:
            assert state.value == before.value


def test_an_adaptive_length_stays_at_a_spike_and_grows_after_it() -> None:
    pacing = Adaptive(start=8, end=24, every=1, patience=2, max_hold=10)
    calm, spike = [5.0, 4.9], [4.8, 6.0, 5.0, 4.7, 4.6]
    values = [state.value for state in walked(pacing, iter(calm + spike + calm), 9)]
    assert values == [8, 8, 16, 16, 16, 16, 16, 24, 24, 24]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("start", 32),
        ("multiple", 0),
        ("every", 0),
        ("patience", 0),
        ("max_hold", 1),
        ("of", "rows"),
    ],
)
def test_an_adaptive_pacing_names_what_is_wrong(setting: str, value: object) -> None:
    given_settings: dict[str, Any] = {"start": 8, "end": 24, setting: value}
    with pytest.raises(SettingError, match=f"^{setting}: "):
        Adaptive(**given_settings)
