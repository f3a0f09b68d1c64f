"""The strategy: it ends, next_settings nothing twice, and finds the largest calm duration."""

import hashlib
import random
from collections.abc import Callable
from itertools import pairwise
from math import inf, isfinite, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.experiments.tune.search import (
    FIRST,
    MOST_RATE,
    MOST_ROWS,
    MULTIPLES,
    RACE_TOLERANCE,
    RIVAL,
    End,
    Setting,
    Space,
    next_settings,
    next_step,
    race_entries,
)

Oracle = Callable[[Setting], bool]  # is it calm?
Loss = Callable[[Setting], float]  # of what is calm
STARTS = st.lists(st.integers(1, 512), min_size=1, max_size=6, unique=True).map(
    lambda starts: tuple(sorted(starts))
)
ROOM = st.integers(1, 8).map(lambda most: lambda setting: setting.rows <= most)
SPACES = st.builds(Space, starts=STARTS, aggressive=st.booleans(), fits=ROOM)
JOBS = st.integers(1, 9)
CHANCE = st.integers(0, 2**32).map(random.Random)
LARGEST = st.sampled_from(MULTIPLES)


def flat(_setting: Setting) -> float:
    return 5.0


def search(
    space: Space,
    is_calm: Oracle,
    jobs: int = 1,
    chance: random.Random | None = None,
    loss: Loss = flat,
) -> tuple[Setting | None, dict[Setting, float]]:
    """Carry a search out, `jobs` trials side by side, of which by chance one ends first."""
    known: dict[Setting, float] = {}
    while wanted := next_settings(space, known, jobs):
        assert wanted[0] == next_step(space, known)
        assert len(wanted) == len(set(wanted)) <= jobs
        assert not known.keys() & set(wanted)
        ended = wanted[chance.randrange(len(wanted)) if chance else 0]
        known[ended] = loss(ended) if is_calm(ended) else inf
        assert len(known) < 1000
    end = next_step(space, known)
    assert isinstance(end, End)
    return end.chosen, known


def opening(start: int) -> Setting:
    return Setting(start, FIRST, opening=True)


def calm_up_to(multiple: int) -> Oracle:
    return lambda setting: setting.multiple <= multiple


def calm_from(start: int) -> Oracle:
    return lambda setting: setting.start >= start


def entries(starts: tuple[int, ...], first: int) -> list[int]:
    """Return the starts that race if each is better than the one before."""
    racing = [first]
    while longer := [start for start in starts if start >= RIVAL * racing[-1]]:
        racing.append(longer[0])
    return racing


def whatever(seed: int) -> Oracle:
    """Calm or not without any rhyme or reason, but always the same for one setting."""
    return lambda setting: hashlib.sha256(f"{seed} {setting}".encode()).digest()[0] % 2 == 0


def test_durations_reach_from_one_warm_up_to_64_and_three_trials_tell_them_apart() -> None:
    assert (MULTIPLES[0], MULTIPLES[-1]) == (1, 64)
    assert FIRST in MULTIPLES
    above = [multiple for multiple in MULTIPLES if multiple >= FIRST]
    assert all(1.4 < after / before < 1.6 for before, after in pairwise(above))
    for largest in above:
        chosen, known = search(Space((8,)), calm_up_to(largest))
        assert chosen == Setting(8, largest)
        # The wildest; where it is not calm, the opening of stage 1 and three more.
        assert len(known) == (1 if largest == MULTIPLES[-1] else 5)


@given(starts=STARTS, number=st.integers(0, 5), largest=LARGEST, jobs=JOBS, chance=CHANCE)
def test_where_calmness_is_monotone_it_finds_the_first_start_and_the_largest_duration(
    starts: tuple[int, ...], number: int, largest: int, jobs: int, chance: random.Random
) -> None:
    first = starts[number % len(starts)]

    def is_calm(setting: Setting) -> bool:
        return setting.start >= first and setting.multiple <= largest

    chosen, _ = search(Space(starts), is_calm, jobs, chance)
    # Where no start is calm at 4 warm-ups, the longest is tried at fewer. Races are undecided here,
    # and then the longer start is taken.
    assert chosen == Setting(
        entries(starts, first)[-1] if largest >= FIRST else starts[-1], largest
    )


@given(space=SPACES, seed=st.integers(0, 1000), jobs=JOBS)
def test_what_is_tried_has_room_in_the_budget(space: Space, seed: int, jobs: int) -> None:
    _, known = search(space, whatever(seed), jobs)
    assert all(space.fits(setting) or setting.multiple == FIRST for setting in known)
    assert all(space.fits(setting) for setting in known if setting.rows > 1)


def test_a_start_that_is_calm_at_the_very_beginning_alone_is_not_chosen() -> None:
    chosen, known = search(
        Space((8, 16)), lambda s: s.opening or (s.start == 16 and s.multiple < 9)
    )
    assert chosen == Setting(16, 6)
    assert list(known)[:5] == [
        Setting(8, 64),
        opening(8),
        *(Setting(8, k) for k in (13, 6, 4)),
    ]


def test_the_smallest_duration_of_stage_2_is_tried_whole_before_it_is_chosen() -> None:
    chosen, known = search(Space((8,)), lambda setting: setting.multiple <= 4)
    assert chosen == Setting(8, 4)
    assert isfinite(known[chosen])
    assert not chosen.opening


@given(space=SPACES, seed=st.integers(0, 1000), jobs=JOBS, chance=CHANCE)
def test_speculation_never_changes_the_choice_whatever_is_calm(
    space: Space, seed: int, jobs: int, chance: random.Random
) -> None:
    alone, needed = search(space, whatever(seed))
    chosen, known = search(space, whatever(seed), jobs, chance)
    assert chosen == alone
    assert needed.keys() <= known.keys()


@given(space=SPACES, seed=st.integers(0, 1000), jobs=JOBS)
def test_what_is_chosen_was_tried_and_calm(space: Space, seed: int, jobs: int) -> None:
    chosen, known = search(space, whatever(seed), jobs)
    if chosen is not None:
        assert isfinite(known[chosen])
    else:
        assert not any(isfinite(loss) for one, loss in known.items() if not one.opening)


@given(space=SPACES, seed=st.integers(0, 1000))
def test_alone_it_tries_only_what_is_needed_and_few(space: Space, seed: int) -> None:
    _, known = search(space, whatever(seed))
    races = [setting for setting in known if setting.raced]
    plain = [one for one in known if one.rate == one.rows == 1 and one not in races]
    assert len(plain) <= 5 * len(space.starts) + 6
    assert len(races) <= len(space.starts)


def test_it_goes_on_where_it_was_whenever_it_is_interrupted() -> None:
    def is_calm(setting: Setting) -> bool:
        return setting.start > 8 and setting.multiple < 20 and setting.rate < 8

    space = Space((8, 16), aggressive=True)
    chosen, known = search(space, is_calm)
    for count in range(len(known)):
        before = dict(list(known.items())[:count])
        assert next_step(space, before) == list(known)[count]
    assert chosen == Setting(16, 19, rate=4, rows=8)


def test_no_calm_start_is_the_end_without_a_choice() -> None:
    chosen, known = search(Space((8, 16, 32)), lambda _: False, jobs=4)
    assert chosen is None
    first = {opening(start) for start in (8, 16, 32)}
    assert known.keys() >= first | {Setting(32, 2), Setting(32, 1)}


def test_a_shorter_duration_is_tried_only_where_the_budget_has_room_for_its_longer_rows() -> None:
    space = Space((8,), fits=lambda setting: setting.multiple >= 3)
    chosen, known = search(space, lambda setting: setting.multiple <= 3)
    assert chosen == Setting(8, 3)
    assert known.keys() == {Setting(8, 64), opening(8), Setting(8, 3)}
    assert search(Space((8,), fits=lambda _: False), lambda _: False)[0] is None


@given(start=STARTS.map(min), longest=LARGEST)
def test_stage_2_goes_as_far_as_the_budget_has_room_and_never_below_its_first_duration(
    start: int, longest: int
) -> None:
    chosen, known = search(Space((start,), fits=calm_up_to(longest)), lambda _: True)
    assert chosen == Setting(start, max(FIRST, longest))
    assert all(setting.multiple <= max(FIRST, longest) for setting in known)


def test_rows_are_doubled_as_far_as_the_chosen_setting_has_room() -> None:
    space = Space((8, 16), True, fits=lambda setting: setting.start * setting.rows <= 32)
    for start, rows in ((8, 4), (16, 2)):
        chosen, _ = search(space, calm_from(start))
        assert chosen is not None
        assert (chosen.start, chosen.rows) == (start, rows)


def test_the_rate_is_doubled_before_the_rows_and_both_have_a_limit() -> None:
    chosen, known = search(Space((8,), aggressive=True), lambda _: True)
    assert chosen == Setting(8, 64, rate=MOST_RATE, rows=MOST_ROWS)
    bolder = [(s.rate, s.rows) for s in known if s.rate * s.rows > 1]
    assert bolder == [*((2**n, 1) for n in range(1, 7)), *((64, 2**n) for n in range(1, 4))]


def test_speculation_is_for_both_ways_that_the_needed_trial_can_end() -> None:
    space = Space((8, 16))
    assert next_settings(space, {}, 4) == [Setting(8, 64), opening(8), Setting(8, 13), opening(16)]
    known = {Setting(8, 64): inf, opening(8): 5.0}
    assert next_settings(space, known, 3) == [Setting(8, 13), Setting(8, 29), Setting(8, 6)]
    space = Space((8, 32))
    assert next_settings(space, {}, 3) == [
        Setting(8, 64),
        Setting(8, 64, raced=True),
        opening(8),
    ]


def test_a_speculative_trial_that_contradicts_monotony_changes_no_choice() -> None:
    space = Space((8, 16), aggressive=True)
    chosen, known = search(space, lambda s: s.start == 16 and s.multiple <= 13 and s.rate == 1)
    assert chosen == Setting(16, 13, rows=8)
    contradicting = {
        Setting(16, 43): 5.0,  # calm, where 19 warm-ups were not
        Setting(16, 13, rate=4): 5.0,  # calm, where twice the rate was not
        Setting(8, 43): 5.0,  # calm, where 4 warm-ups were not
        Setting(16, 6): inf,  # not calm, where 9 warm-ups were
    }
    for setting, loss in contradicting.items():
        assert next_step(space, {**known, setting: loss}) == End(chosen)


def test_where_the_wildest_is_calm_nothing_else_is_tried() -> None:
    chosen, known = search(Space((8, 16)), lambda _: True)
    assert chosen == Setting(8, 64)
    assert list(known) == [chosen]


@pytest.mark.parametrize(
    ("behind", "start"), [(-1.0, 32), (0.0, 32), (log(1.09), 32), (log(1.11), 8), (1.0, 8)]
)
def test_a_longer_start_is_taken_unless_it_is_more_than_10_percent_behind(
    behind: float, start: int
) -> None:
    def loss(setting: Setting) -> float:
        return 5.0 + behind * (setting.start == 32)

    chosen, known = search(Space((8, 16, 32)), lambda _: True, loss=loss)
    assert chosen == Setting(start, 64)
    raced = [Setting(start, 64, raced=True) for start in (8, 32)]
    assert list(known) == [Setting(8, 64), *raced, *[Setting(32, 64)] * (start == 32)]


def test_a_race_goes_on_to_ever_longer_starts_until_one_is_worse() -> None:
    losses = {8: 5.0, 32: 4.5, 128: 4.7, 512: 4.0}
    starts = tuple(8 * 2**n for n in range(7))
    chosen, known = search(Space(starts), lambda _: True, loss=lambda s: losses[s.start])
    assert chosen == Setting(32, 64)
    assert [one.start for one in known if one.raced] == [8, 32, 128]


def test_for_the_winner_of_a_race_a_longer_duration_is_looked_for_from_where_it_raced() -> None:
    longest = {8: 19, 32: 43}
    chosen, known = search(Space((8, 32)), lambda one: one.multiple <= longest[one.start])
    assert chosen == Setting(32, 43)
    assert [one.multiple for one in known if one.raced] == [19, 19]
    assert [one.multiple for one in known if one.start == 32 and not one.raced] == [43, 64]


def test_a_winner_of_a_race_that_is_not_calm_for_three_warm_ups_leaves_the_choice_as_it_was() -> (
    None
):
    chosen, known = search(Space((8, 32)), lambda one: one.start == 8 or one.raced)
    assert chosen == Setting(8, 64)
    assert list(known)[-1] == Setting(32, 64)


def test_where_the_last_winner_is_not_calm_the_one_before_it_stays() -> None:
    def is_calm(setting: Setting) -> bool:
        return setting.start < 128 or setting.raced

    chosen, known = search(Space((8, 32, 128)), is_calm)
    assert chosen == Setting(32, 64)
    assert list(known)[-2:] == [Setting(128, 64), Setting(32, 64)]


def test_who_has_raced_is_told_and_nobody_who_was_speculation() -> None:
    space = Space((8, 32, 128))
    entries = [Setting(start, 19) for start in (8, 32)]
    _, known = search(space, calm_up_to(19), loss=lambda one: 5.0 + (one.start > 8))
    assert race_entries(space, known) == entries
    speculation = {Setting(start, 64, raced=True): 5.0 for start in (8, 32)}
    assert race_entries(space, known | speculation) == entries
    assert race_entries(space, {}) == race_entries(Space((8, 16)), known) == []


def test_a_race_is_never_begun_in_vain() -> None:
    # What comes behind a race waits for it.
    known: dict[Setting, float] = {Setting(8, 64): 5.0}
    pair = [Setting(start, 64, raced=True) for start in (8, 32)]
    assert next_settings(Space((8, 32, 128)), known, 9) == pair


@pytest.mark.parametrize(("calm", "start"), [((8,), 8), ((32,), 32), ((), 8)])
def test_a_start_that_is_not_calm_in_its_race_loses_it(calm: tuple[int, ...], start: int) -> None:
    chosen, _ = search(Space((8, 32)), lambda one: not one.raced or one.start in calm)
    assert chosen == Setting(start, 64)


def test_there_is_no_race_where_the_budget_has_no_room_for_it_or_for_the_longer_start() -> None:
    for fits in (lambda one: not one.raced, lambda one: one.start < 32 or one.multiple < 64):
        chosen, known = search(Space((8, 32), fits=fits), lambda _: True)
        assert chosen == Setting(8, 64)
        assert list(known) == [chosen]


def test_larger_rates_are_tried_with_the_start_that_won_the_race() -> None:
    chosen, known = search(Space((8, 32), aggressive=True), lambda one: one.rate < 4)
    assert chosen == Setting(32, 64, rate=2, rows=8)
    assert {one.start for one in known if one.rate > 1} == {32}


@given(starts=STARTS, seed=st.integers(0, 1000), jobs=JOBS, chance=CHANCE)
def test_a_race_is_decided_by_the_losses_alone(
    starts: tuple[int, ...], seed: int, jobs: int, chance: random.Random
) -> None:
    losses = {start: random.Random(f"{seed} {start}").uniform(4.9, 5.1) for start in starts}
    chosen, known = search(
        Space(starts), lambda _: True, jobs, chance, lambda one: losses[one.start]
    )
    assert chosen is not None
    racing = entries(starts, starts[0])
    pairs = list(pairwise(racing))
    kept = next(
        (n for n, (a, b) in enumerate(pairs) if losses[b] - losses[a] > RACE_TOLERANCE), len(pairs)
    )
    assert chosen == Setting(racing[kept], 64)
    assert {one.start for one in known if one.raced} >= set(racing[: kept + 2] if pairs else ())
