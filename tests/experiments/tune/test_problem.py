"""What is asked: trials are the exact beginnings of trainings, and a bad problem is one line."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.config.load import build, with_overrides
from lengthen.config.schema import Tables
from lengthen.core.pacing import Doubling, Linear, Root
from lengthen.core.schedule import RateSchedule, crossed, steps
from lengthen.data.store import Store
from lengthen.experiments.tune.problem import (
    JUDGE_TOKENS,
    PAIRED_SD,
    Problem,
    define_problem,
    evaluation_steps,
    resolution,
    tokens_for,
    trial_tokens,
)
from lengthen.experiments.tune.search import MULTIPLES, Setting, Space
from lengthen.model import cost
from lengthen.util.errors import DataError, LengthenError
from tests.conftest import Configure
from tests.experiments.tune.conftest import Asked

SETTINGS = st.builds(
    Setting,
    start=st.sampled_from([8, 16, 24, 56]),
    multiple=st.sampled_from(MULTIPLES),
    rate=st.sampled_from([1, 2, 8]),
    rows=st.sampled_from([1, 2]),
    opening=st.booleans(),
    raced=st.booleans(),
)


def problem_of(**tables: Tables) -> Problem:
    """Return a problem whose trials can be worked out without a store."""
    base: Tables = {
        "model": {"layers": 1, "width": 16, "heads": 2, "length": 64, "vocabulary": 257},
        "pacing": {"kind": "linear", "start": 8, "duration": 12},
        "batch": {"rows": 8},
        "optimizer": {"learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup_steps": 6},
        "budget": {"tokens": 100_000},
    }
    config = build({**base, **tables})
    decay = {"optimizer": {"decay_tokens": config.schedule().decay_tokens}}
    return Problem(with_overrides(config, decay), 100_000, 512, Space((8,)))


@given(
    setting=SETTINGS,
    hold=st.sampled_from(["rows", "tokens"]),
    kind=st.sampled_from(["linear", "root", "doubling"]),
    decay=st.none() | st.integers(1_000, 200_000),
    rates=st.sampled_from(get_args(RateSchedule)),
)
def test_a_trial_has_the_steps_and_rates_of_the_whole_training_to_the_last_digit(
    setting: Setting, hold: str, kind: str, decay: int | None, rates: RateSchedule
) -> None:
    problem = problem_of(
        batch={"rows": 8, "hold": hold},
        pacing={"kind": kind, "start": 8, "duration": 12},
        optimizer={
            "learning_rate": 1e-2,
            "warmup_steps": 6,
            "decay_tokens": decay,
            "schedule": rates,
        },
    )
    whole = problem.training(setting).schedule()
    trial = list(steps(problem.trial_config(setting).schedule()))
    assert trial == list(islice(steps(whole), problem.steps(setting)))
    if setting.raced:
        used = sum(shape.tokens for _, shape in trial)
        following = next(islice(steps(whole), len(trial), None))[1].tokens
        assert used <= problem.race_tokens < used + following
    else:
        assert len(trial) == (12 if setting.opening else 18)


@given(setting=SETTINGS)
def test_a_setting_is_what_it_says(setting: Setting) -> None:
    config = problem_of().training(setting)
    assert isinstance(config.pacing, Linear)
    assert (config.pacing.start, config.pacing.duration) == (setting.start, 6 * setting.multiple)
    assert config.optimizer.learning_rate == 1e-2 * setting.rate
    assert config.optimizer.min_learning_rate == 1e-3 * setting.rate
    assert config.batch.rows == 8 * setting.rows


def test_a_trial_is_evaluated_each_tenth_of_a_warm_up_and_measures_nothing_else(
    asked: Asked,
) -> None:
    assert [evaluation_steps(warmup) for warmup in (1, 9, 10, 20, 29, 3000)] == [1, 1, 1, 2, 2, 300]
    problem = asked(
        optimizer={"learning_rate": 1e-2, "warmup_steps": 30}, budget={"tokens": 100_000}
    )
    trial = problem.trial_config(Setting(8, 64))
    assert trial.evaluation.every_steps == 3
    # 30 % are looked for, which a quarter of the tokens that see 1 % shows as well.
    assert (problem.judge_tokens, trial.evaluation.tokens) == (512, 128)
    assert trial.evaluation.probe_every_steps == trial.saving.every_steps == 0


def test_a_race_takes_a_twentieth_of_the_budget_and_is_evaluated_ten_times(asked: Asked) -> None:
    problem = asked(budget={"tokens": 200_000})
    setting = Setting(16, 13, raced=True)
    race = problem.trial_config(setting)
    assert problem.race_tokens == 10_000
    assert (race.evaluation.every_tokens, race.evaluation.every_steps) == (1000, None)
    assert race.evaluation.tokens == problem.judge_tokens


@given(
    rows=st.integers(1, 8),
    budget=st.integers(10_000, 600_000),
    start=st.sampled_from([8, 16, 24]),
    multiple=st.sampled_from(MULTIPLES),
    hold=st.sampled_from(["rows", "tokens"]),
    end=st.sampled_from([32, 64]),
)
def test_wherever_the_budget_has_room_a_race_is_evaluated_as_often_as_is_billed(
    rows: int, budget: int, start: int, multiple: int, hold: str, end: int
) -> None:
    asked = problem_of(
        batch={"rows": rows, "hold": hold},
        pacing={"kind": "linear", "start": 8, "duration": 12, "end": end},
    )
    problem = replace(asked, budget=budget)
    setting = Setting(start, multiple, raced=True)
    if not problem.fits(setting):
        return
    race = problem.trial_config(setting)
    when, looks, last = race.evaluation.every_tokens or 0, 0, 0
    moments = [counters.tokens + shape.tokens for counters, shape in steps(race.schedule())]
    for tokens in moments:
        if crossed(when, last, tokens) or tokens == moments[-1]:
            looks, last = looks + 1, tokens
    assert looks == problem.evaluations(setting)
    assert len(moments) == problem.steps(setting)
    assert moments[-1] <= problem.race_tokens


def test_a_long_race_is_saved_as_often_as_the_training(asked: Asked) -> None:
    problem = asked(budget={"tokens": 200_000}, saving={"every_steps": 7})
    assert problem.trial_config(Setting(16, 13, raced=True)).saving.every_steps == 7
    assert problem.trial_config(Setting(16, 13)).saving.every_steps == 0


def test_a_race_must_be_longer_than_what_shows_calm_and_than_40_full_steps(asked: Asked) -> None:
    race = Setting(8, 4, raced=True)
    # 40 steps of 8 rows of 64; its three warm-ups have 2,432 tokens.
    assert asked(budget={"tokens": 20 * 20_480}).space.fits(race)
    assert not asked(budget={"tokens": 20 * 20_480 - 1}).space.fits(race)
    slow = {"learning_rate": 1e-2, "warmup_steps": 40}
    needed = trial_tokens(asked(optimizer=slow, budget={"tokens": 10**6}).training(race), 120)
    assert needed > 20_480
    assert asked(optimizer=slow, budget={"tokens": 20 * needed}).space.fits(race)
    assert not asked(optimizer=slow, budget={"tokens": 20 * needed - 1}).space.fits(race)


def test_a_recipe_without_a_warmup_gets_a_linear_one_and_others_keep_their_kind(
    asked: Asked,
) -> None:
    setting = Setting(8, 5)
    linear = asked(pacing={"kind": "constant"}).training(setting).pacing
    assert linear == Linear(start=8, duration=20, end=64)
    root = {"kind": "root", "degree": 3, "multiple": 4, "start": 4, "duration": 9}
    rooted = asked(pacing=root).training(setting).pacing
    assert rooted == Root(degree=3, multiple=4, start=8, duration=20, end=64)
    doubled = asked(pacing={"kind": "doubling", "start": 4, "duration": 9}).training(setting).pacing
    assert doubled == Doubling(start=8, duration=20, end=64)


def test_a_budget_in_passes_stays_one_and_trials_are_cut_in_tokens(asked: Asked) -> None:
    problem = asked(budget={"epochs": 1})
    setting = problem.space.starts[0], 4
    assert problem.training(Setting(*setting)).budget.epochs == 1
    assert problem.trial_config(Setting(*setting)).budget.epochs is None


def test_starts_double_from_8_to_a_quarter_of_full_length(asked: Asked) -> None:
    assert asked().space.starts == (8, 16)
    assert asked(pacing={"kind": "linear", "start": 8, "duration": 9, "multiple": 3}).space.starts
    multiples = {1: (8, 16), 3: (9,), 12: (12,), 16: (16,)}
    for multiple, starts in multiples.items():
        pacing = {"kind": "linear", "start": 8, "duration": 9, "multiple": multiple}
        assert asked(pacing=pacing).space.starts == starts
    assert asked(starts=(32, 8, 32)).space.starts == (8, 32)


@pytest.mark.parametrize("budget", [20_000, 60_000, 100_000])
def test_a_quarter_of_the_budget_is_left_behind_the_longest_warmup_that_is_tried(
    asked: Asked, budget: int
) -> None:
    problem = asked(budget={"tokens": budget})
    for start in problem.space.starts:
        taken = []
        for multiple in MULTIPLES:
            whole = problem.training(Setting(start, multiple)).schedule()
            taken.append(sum(shape.tokens for _, shape in islice(steps(whole), 4 * multiple)))
        longest = MULTIPLES[sum(tokens <= 0.75 * budget for tokens in taken) - 1]
        assert problem.space.ladder(start)[-1] == Setting(start, longest)


def test_more_rows_are_tried_only_where_the_budget_has_room_for_trial_and_warmup(
    asked: Asked,
) -> None:
    # From 8 a warmup of 16 steps has 3,904 tokens.
    fits = asked(budget={"tokens": 12_000}, pacing={"kind": "constant"}).space.fits
    assert fits(Setting(8, 4, rows=2))
    assert not fits(Setting(8, 4, rows=4))
    # A trial from 16 with a warmup of 4 steps has more than 5,000, most of them behind it.
    assert fits(Setting(16, 1))
    small = asked(budget={"tokens": 5_000}, pacing={"kind": "constant"})
    assert not small.space.fits(Setting(16, 1))


def test_a_model_of_billions_begins_at_64(asked: Asked) -> None:
    batch, budget = {"rows": 1, "micro_tokens": 1024}, {"tokens": 100_000}
    large = {"layers": 48, "width": 1328, "heads": 16, "length": 1024}
    assert cost.parameters(asked(model=large, batch=batch, budget=budget).config.model) > 10**9
    starts = asked(model=large, batch=batch, budget=budget).space.starts
    assert starts == (64, 128, 256)
    small = {**large, "width": 1312}
    assert cost.parameters(asked(model=small, batch=batch, budget=budget).config.model) < 10**9
    assert asked(model=small, batch=batch, budget=budget).space.starts[:3] == (8, 16, 32)
    with pytest.raises(LengthenError, match="; lower optimizer.warmup_steps or batch.rows$"):
        asked(model=large, batch=batch, budget={"tokens": 1_000}, starts=(64,))


def test_where_the_start_is_the_smallest_no_smaller_one_is_proposed(asked: Asked) -> None:
    with pytest.raises(LengthenError) as caught:
        asked(budget={"tokens": 1_000}, starts=(8,))
    assert str(caught.value).endswith("; lower optimizer.warmup_steps or batch.rows")


def test_the_judge_sees_one_percent_at_two_standard_errors() -> None:
    needed = tokens_for(0.01)
    assert resolution(needed) <= 0.01 < resolution(needed - 1)
    assert 2 * PAIRED_SD / math.sqrt(needed) == pytest.approx(math.log(1.01), rel=1e-3)
    assert needed <= JUDGE_TOKENS < needed + 256
    assert JUDGE_TOKENS % 256 == 0


MISTAKES: dict[str, tuple[Tables, str]] = {
    "no warm-up": (
        {"optimizer": {"learning_rate": 1e-2, "warmup_steps": 0}},
        "optimizer.warmup_steps: must be above 0: trials and durations are counted in warm-ups",
    ),
    "rows are paced": (
        {"pacing": {"kind": "linear", "of": "rows", "start": 1, "duration": 9, "multiple": 1}},
        "pacing.of: must be \"length\" to be tuned, got 'rows'",
    ),
    "adaptive": (
        {"pacing": {"kind": "adaptive", "start": 8}},
        "pacing.kind: must be linear, root, doubling or constant",
    ),
    "two-stage": (
        {"pacing": {"kind": "staged", "values": [8, 64], "boundaries": [9]}},
        "pacing.kind: must be linear, root, doubling or constant",
    ),
    "no default start": (
        {"pacing": {"kind": "linear", "start": 8, "duration": 9, "multiple": 24}},
        "--starts: is missing: no default lies at or below a quarter of full length (64) and is a "
        "multiple of 24",
    ),
    "budget below a trial": (
        {"budget": {"tokens": 2_815}},
        "budget.tokens: must be at least one trial, 3 warm-ups (2816 tokens), got 2815; lower "
        "optimizer.warmup_steps or batch.rows, or give smaller --starts",
    ),
    "passes below a trial": (
        {"budget": {"epochs": 0.05}},
        "budget.epochs: must give at least one trial, 3 warm-ups (2816 tokens), got 2412; lower",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_tuned_is_one_line(asked: Asked, name: str) -> None:
    tables, message = MISTAKES[name]
    with pytest.raises(LengthenError) as caught:
        asked(**tables)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ((64,), "--starts: must be from 1 to below full length (64), got 64"),
        ((8, 1000), "--starts: must be from 1 to below full length (64), got 1000"),
        ((0,), "--starts: must be from 1 to below full length (64), got 0"),
        ((8, 12), "--starts: must be multiples of pacing.multiple (8), got 12"),
    ],
)
def test_starts_that_cannot_be_are_one_line(
    asked: Asked, starts: tuple[int, ...], message: str
) -> None:
    with pytest.raises(LengthenError) as caught:
        asked(starts=starts)
    assert str(caught.value) == message


def test_doubling_has_no_multiple_that_a_start_could_break(asked: Asked) -> None:
    tables: Tables = {
        "model": {"length": 100},
        "pacing": {"kind": "doubling", "start": 25, "duration": 12, "end": 100},
        "batch": {"hold": "tokens", "leftovers": "in_place", "micro_tokens": "auto"},
        "budget": {"tokens": 10**6},
    }
    problem = asked(starts=(25, 50), **tables)
    assert problem.space.starts == (25, 50)
    assert problem.steps(Setting(25, 4)) == 3 * problem.warmup


def test_more_starts_than_an_estimate_can_go_through_are_one_line(asked: Asked) -> None:
    linear = {"kind": "linear", "start": 1, "duration": 12, "multiple": 1, "end": 66}
    tables: Tables = {"model": {"length": 66}, "pacing": linear, "budget": {"tokens": 10**6}}
    assert len(asked(starts=tuple(range(1, 65)), **tables).space.starts) == 64
    with pytest.raises(LengthenError, match="^--starts: must be at most 64, got 65$"):
        asked(starts=tuple(range(1, 66)), **tables)


def test_a_validation_part_too_small_to_judge_says_how_large_it_must_be_and_why(
    tunable: Configure, store: Path
) -> None:
    opened = Store.open(store)
    with pytest.raises(DataError) as caught:
        define_problem(tunable(), opened)
    said, there = str(caught.value), (len(opened.valid) - 1) // 64 * 64
    assert f"the valid part has {len(opened.valid)} tokens, 6657 are needed" in said
    assert "differences of 1 % in perplexity need 6465, where two standard errors" in said
    assert "are ln 1.01 for a spread of 0.40 nats, as measured early on a small model; " in said
    assert said.endswith(f"a larger --valid, or judge more coarsely with --judge-tokens {there}")
    assert define_problem(tunable(), opened, judge_tokens=there).judge_tokens == there
    with pytest.raises(DataError, match=f"--judge-tokens {there + 1} asks for more; prepare"):
        define_problem(tunable(), opened, judge_tokens=there + 1)


def test_a_validation_part_without_one_sequence_has_no_coarser_remedies(
    tunable: Configure, store: Path
) -> None:
    long = tunable(model={"length": 8192}, batch={"rows": 1, "micro_tokens": "auto"})
    with pytest.raises(DataError, match="8193 are needed: .*; prepare with a larger --valid$"):
        define_problem(long, Store.open(store))
