"""The strategy: it ends, tries nothing twice, and finds the largest calm duration."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lengthen.tune.search import (
    FIRST,
    MOST,
    MOST_RATE,
    End,
    Setting,
    Space,
    against_monotony,
    next_step,
    tries,
)

Oracle = Callable[[Setting], bool]
STARTS = st.lists(st.integers(1, 512), min_size=1, max_size=6, unique=True).map(
    lambda starts: tuple(sorted(starts))
)
SPACES = st.builds(Space, starts=STARTS, aggressive=st.booleans(), most_rows=st.integers(1, 8))
JOBS = st.integers(1, 9)
CHANCE = st.integers(0, 2**32).map(random.Random)
LARGEST = st.integers(FIRST, MOST)


def search(
    space: Space, is_calm: Oracle, jobs: int = 1, chance: random.Random | None = None
) -> tuple[Setting | None, dict[Setting, bool]]:
    """Carry a search out, `jobs` trials side by side, of which by chance one ends first."""
    known: dict[Setting, bool] = {}
    while wanted := tries(space, known, jobs):
        assert wanted[0] == next_step(space, known)
        assert len(wanted) == len(set(wanted)) <= jobs
        assert not known.keys() & set(wanted)
        ended = wanted[chance.randrange(len(wanted)) if chance else 0]
        known[ended] = is_calm(ended)
        assert len(known) < 1000
    end = next_step(space, known)
    assert isinstance(end, End)
    return end.chosen, known


def whatever(seed: int) -> Oracle:
    """Calm or not without any rhyme or reason, but always the same for one setting."""
    return lambda setting: hashlib.sha256(f"{seed} {setting}".encode()).digest()[0] % 2 == 0


@given(starts=STARTS, number=st.integers(0, 5), largest=LARGEST, jobs=JOBS, chance=CHANCE)
def test_where_calmness_is_monotone_it_finds_the_first_start_and_the_largest_duration(
    starts: tuple[int, ...], number: int, largest: int, jobs: int, chance: random.Random
) -> None:
    first = starts[number % len(starts)]

    def is_calm(setting: Setting) -> bool:
        return setting.start >= first and setting.multiple <= largest

    chosen, known = search(Space(starts), is_calm, jobs, chance)
    assert chosen == Setting(first, largest)
    assert not against_monotony(known, chosen)


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
        assert known[chosen]
    else:
        assert not any(known[Setting(start, FIRST)] for start in space.starts)


@given(space=SPACES, seed=st.integers(0, 1000))
def test_alone_it_tries_only_what_is_needed_and_few(space: Space, seed: int) -> None:
    _, known = search(space, whatever(seed))
    plain = [setting for setting in known if setting.rate == setting.rows == 1]
    assert len(plain) <= len(space.starts) + 6  # 6 = log2(64 - 4), rounded up


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
    assert {setting for setting in known if setting.multiple == FIRST} == {
        Setting(start, FIRST) for start in (8, 16, 32)
    }


def test_the_rate_is_doubled_before_the_rows_and_both_have_a_limit() -> None:
    chosen, known = search(Space((8,), aggressive=True), lambda _: True)
    assert chosen == Setting(8, MOST, rate=MOST_RATE, rows=8)
    bolder = [(s.rate, s.rows) for s in known if s.rate * s.rows > 1]
    assert bolder == [*((2**n, 1) for n in range(1, 7)), *((64, 2**n) for n in range(1, 4))]


def test_speculation_is_for_both_ways_that_the_needed_trial_can_end() -> None:
    space = Space((8, 16))
    assert tries(space, {}, 3) == [Setting(8, 4), Setting(8, 34), Setting(16, 4)]
    known = {Setting(8, 4): True}
    assert tries(space, known, 3) == [Setting(8, 34), Setting(8, 49), Setting(8, 19)]


def test_a_speculative_trial_that_contradicts_monotony_is_named_and_the_choice_stands() -> None:
    space = Space((8,))
    chosen, known = search(space, lambda setting: setting.multiple <= 10)
    beyond, below = Setting(8, 40), Setting(8, 8)
    contradicted = {**known, beyond: True, below: False}
    assert next_step(space, contradicted) == End(chosen)
    assert chosen == Setting(8, 10)
    assert set(against_monotony(contradicted, chosen)) == {beyond, below}
    assert not against_monotony({**known, replace(beyond, rate=2): True}, chosen)
