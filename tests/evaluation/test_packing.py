"""What begins alike is read once, and every token that counts is asked for once."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lengthen.evaluation.packing import (
    PADDING,
    TREE_LIMIT,
    PackedBatch,
    Request,
    pack,
)

LENGTH = 64
few = st.integers(0, 2)
requests = st.builds(
    Request,
    st.lists(few, min_size=1, max_size=70).map(tuple),
    st.lists(few, min_size=1, max_size=LENGTH).map(tuple),
)


def packed(asked: list[Request], micro_tokens: int = 512) -> list[PackedBatch]:
    return list(pack(asked, LENGTH, micro_tokens))


def read(found: list[PackedBatch]) -> int:
    return sum(int((each.branches != PADDING).sum()) for each in found)


@given(st.lists(requests, max_size=20), st.integers(1, 600))
def test_every_target_is_asked_for_once(asked: list[Request], micro_tokens: int) -> None:
    found: Counter[tuple[int, int]] = Counter()
    for each in packed(asked, micro_tokens):
        found.update(zip(each.numbers.tolist(), each.targets.tolist(), strict=True))
    wanted = Counter(
        (number, token) for number, each in enumerate(asked) for token in each.continuation
    )
    assert found == wanted


@given(st.lists(requests, max_size=20), st.integers(1, 600))
def test_no_more_is_read_than_line_by_line(asked: list[Request], micro_tokens: int) -> None:
    whole = [min(LENGTH, len(each.context) + len(each.continuation) - 1) for each in asked]
    assert read(packed(asked, micro_tokens)) <= sum(whole)


@given(st.lists(requests, max_size=20), st.integers(LENGTH, 600))
def test_a_pass_keeps_to_its_size(asked: list[Request], micro_tokens: int) -> None:
    for each in packed(asked, micro_tokens):
        assert each.inputs.size <= micro_tokens
        assert each.inputs.shape[1] <= max(TREE_LIMIT, LENGTH)


def test_choices_read_their_context_once() -> None:
    context = tuple(range(20))
    asked = [Request(context, (choice, 1, 2)) for choice in range(4)]
    (found,) = packed(asked)
    assert read([found]) == 20 + 4 * 2  # the last token of each is only asked for
    assert found.inputs.shape[0] == 1


def test_answers_of_one_token_read_nothing_of_their_own() -> None:
    (found,) = packed([Request(tuple(range(20)), (choice,)) for choice in range(5)])
    assert read([found]) == 20
    assert set(found.places.tolist()) == {19}


def test_what_differs_early_is_not_joined() -> None:
    asked = [Request((1, choice, *range(20)), (3,)) for choice in range(4)]
    (found,) = packed(asked)
    assert found.inputs.shape[0] == 4
    assert found.is_plain


def test_a_branch_goes_on_where_its_trunk_ends() -> None:
    asked = [Request((1, 2, 3, 4), (5, 6, 7)), Request((1, 2, 3, 4), (8, 9, 7))]
    (found,) = packed(asked)
    assert found.inputs.tolist() == [[1, 2, 3, 4, 5, 6, 8, 9]]
    assert found.positions.tolist() == [[0, 1, 2, 3, 4, 5, 4, 5]]
    assert found.branches.tolist() == [[0, 0, 0, 0, 1, 1, 2, 2]]
    assert found.places.tolist() == [3, 4, 5, 3, 6, 7]


def test_rows_of_a_pass_are_alike_in_length() -> None:
    asked = [Request(tuple(np.arange(1, 60) * n % 251), (1,) * (1 + n % 50)) for n in range(1, 200)]
    found = packed(asked, 1024)
    assert read(found) > 0.85 * sum(each.inputs.size for each in found)


def test_choices_after_long_shots_read_them_once() -> None:
    shots = tuple(range(TREE_LIMIT + 500))
    asked = [Request(shots, (choice, 1, 2)) for choice in range(4)]
    (batch,) = pack(asked, 2048, 8192)
    assert batch.inputs.shape == (1, len(shots) + 4 * 2)
