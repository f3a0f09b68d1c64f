"""The keyed order: for every size and key a permutation like chance, the same for ever."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.core.shuffle import KeyedPermutation, sub_seed

KEYS = st.integers(0, 2**63 - 1)


def test_it_is_a_permutation_for_every_size_up_to_500() -> None:
    for size in range(1, 501):
        assert sorted(KeyedPermutation(size, 7 * size)(np.arange(size))) == list(range(size))


@given(size=st.integers(10**9, 2**40), key=KEYS, first=st.integers(0, 10**9 - 20_000))
def test_no_two_positions_of_a_large_corpus_share_a_sequence(
    size: int, key: int, first: int
) -> None:
    numbers = KeyedPermutation(size, key)(np.arange(first, first + 20_000))
    assert len(np.unique(numbers)) == 20_000
    assert numbers.min() >= 0
    assert numbers.max() < size


@given(size=st.integers(1, 10**6), key=KEYS, data=st.data())
def test_a_position_has_its_number_whatever_is_asked_beside_it(
    size: int, key: int, data: st.DataObject
) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=8)), dtype=np.int64)
    order = KeyedPermutation(size, key)
    one_by_one = [int(order(positions[i : i + 1])[0]) for i in range(len(positions))]
    assert order(positions).tolist() == one_by_one


@pytest.mark.parametrize("size", [3, 6])
def test_every_permutation_of_a_small_size_is_about_as_likely(size: int) -> None:
    keys, kinds = 5_000, math.factorial(size)
    seen = Counter(
        tuple(KeyedPermutation(size, sub_seed(key))(np.arange(size))) for key in range(keys)
    )
    assert len(seen) == kinds
    chi_square = sum((count - keys / kinds) ** 2 * kinds / keys for count in seen.values())
    assert chi_square < kinds - 1 + 4 * math.sqrt(2 * (kinds - 1))


def test_neighbours_land_everywhere() -> None:
    numbers = KeyedPermutation(10**9, 1)(np.arange(100_000))
    counts = np.bincount(numbers // 10**7, minlength=100)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 99 + 4 * math.sqrt(2 * 99)
    steps = np.diff(numbers)
    assert (
        abs(np.corrcoef(steps[:-1], steps[1:])[0, 1] + 0.5) < 0.02
    )  # of independent numbers: -1/2


def test_two_keys_give_two_orders() -> None:
    one, other = (
        KeyedPermutation(10**6, sub_seed(0, "order", number))(np.arange(10_000))
        for number in (0, 1)
    )
    assert (one == other).sum() < 10
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


def test_the_order_of_a_seed_is_the_same_in_every_release() -> None:
    """A run that is resumed under a later version must continue in the order it began with."""
    assert sub_seed(1234, "order", 0) == 3892241320003153172
    assert KeyedPermutation(1000, 42)(np.arange(8)).tolist() == [
        104,
        805,
        164,
        789,
        116,
        910,
        873,
        972,
    ]


def test_sub_seeds_differ_with_every_part_of_their_path() -> None:
    paths: list[tuple[int | str, ...]] = [(), (0,), ("0",), ("order",), ("order", 0), ("order", 1)]
    seeds = {sub_seed(seed, *path) for seed in range(50) for path in paths}
    assert len(seeds) == 50 * len(paths)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
