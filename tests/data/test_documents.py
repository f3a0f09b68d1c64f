"""The documents of a row: where a separator has ended one, and where a joined row's pieces meet."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthen.core.ledger import Block, Ledger
from lengthen.data.documents import documents_in
from lengthen.data.loader import Loader
from tests.naive_ledger import tokens_of

CPU, SEPARATOR = torch.device("cpu"), 9


def shared(numbers: torch.Tensor | None, rows: int, length: int) -> torch.Tensor:
    """Which tokens of a row are of one document: (rows, length, length)."""
    if numbers is None:
        return torch.ones(rows, length, length, dtype=torch.bool)
    return numbers[:, :, None] == numbers[:, None, :]


Case = tuple[torch.Tensor, list[tuple[int, int, int]], tuple[Block, ...]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw the last of a few steps: its rows, where each token stands, and its blocks."""
    full_length = draw(st.integers(2, 12))
    seed, share = draw(st.integers(0, 99)), draw(st.sampled_from([0, 0.1, 0.5]))
    random = np.random.default_rng(seed)
    tokens = np.where(random.random(full_length * 20 + 1) < share, SEPARATOR, 1).astype(np.uint16)
    loader = Loader(tokens, full_length, seed)
    ledger = Ledger.start(sequences=20, full_length=full_length, reuse_after=1)
    shape = st.tuples(st.integers(1, 9), st.integers(1, full_length))
    for rows, length in draw(st.lists(shape, min_size=1, max_size=5)):
        blocks, ledger = ledger.take(rows, length)
    return loader.load(blocks, length, range(rows)).inputs, list(tokens_of(blocks)), blocks


@given(cases(), st.integers(0, 9))
def test_a_token_shares_its_document_back_to_a_separator_or_the_border_of_a_piece(
    case: Case, first: int
) -> None:
    inputs, places, blocks = case
    first = min(first, len(inputs))  # a rank has the rows from here on
    (rows, length), part = inputs.shape, inputs[first:]
    expected = torch.zeros(rows, length, length, dtype=torch.bool)
    for row in range(rows):
        own = places[row * length : (row + 1) * length]
        follows = [later == (one[0], one[1], one[2] + 1) for one, later in pairwise(own)]
        goes_on = [f and int(t) != SEPARATOR for f, t in zip(follows, inputs[row], strict=False)]
        for a in range(length):
            for b in range(a, length):
                expected[row, a, b] = expected[row, b, a] = all(goes_on[a:b])
    found = shared(documents_in(part, SEPARATOR, CPU, blocks, first), len(part), length)
    assert torch.equal(found, expected[first:])


def test_a_separator_ends_its_document_and_the_front_of_a_row_is_the_rest_of_one() -> None:
    rows = torch.tensor([[1, 2, 9, 3, 9, 9, 4]])
    numbers = documents_in(rows, SEPARATOR, CPU)
    assert numbers is not None
    assert numbers.tolist() == [[0, 0, 0, 1, 1, 2, 3]]


@pytest.mark.parametrize("row", [[1, 2, 3], [1, 2, 9]])
def test_rows_of_one_document_each_need_no_mask(row: list[int]) -> None:
    assert documents_in(torch.tensor([row, [4, 5, 6]]), SEPARATOR, CPU) is None


def test_without_a_mask_all_of_a_row_is_one_document() -> None:
    assert documents_in(torch.tensor([[1, 9, 2]]), None, CPU) is None
