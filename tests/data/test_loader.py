"""From blocks to rows: true successors, no token lost or doubled by any split.

The corpus is mostly 0, 1, 2 ...: a token is its own place, so its successor is the next number.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthen.core.ledger import Block, Ledger, reuse_spacing
from lengthen.core.pacing import Linear
from lengthen.core.schedule import StepPlan
from lengthen.core.shuffle import KeyedPermutation, sub_seed
from lengthen.data.loader import Loader, row_starts
from lengthen.data.token_row import Tokens
from lengthen.util.errors import DataError, SettingError
from tests.naive_ledger import tokens_of

NOVELS = Path(__file__).parents[2] / "../shared/data/novels/train.jsonl.zst"
SEED = 5


def counting(tokens: int) -> Tokens:
    return np.arange(tokens, dtype=np.uint32)


Case = tuple[Loader, tuple[Block, ...], int, int]  # loader, blocks, rows, length


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a small corpus and the last of a few steps on it."""
    full_length = draw(st.integers(1, 24))
    corpus = counting(full_length * draw(st.integers(1, 30)) + draw(st.integers(1, full_length)))
    loader = Loader(corpus, full_length, SEED)
    ledger = Ledger.start(
        sequences=loader.sequences, full_length=full_length, reuse_after=draw(st.integers(1, 4))
    )
    shape = st.tuples(st.integers(1, 40), st.integers(1, full_length), st.integers(1, 4))
    for rows, length, times in draw(st.lists(shape, min_size=1, max_size=4)):
        for _ in range(times):
            blocks, ledger = ledger.take(rows, length)
    return loader, blocks, rows, length


@given(cases())
def test_every_row_holds_what_its_blocks_say_in_the_order_of_the_epoch(case: Case) -> None:
    loader, blocks, rows, length = case
    batch = loader.load(blocks, length, range(rows))
    orders: dict[int, list[int]] = {}
    for number in {piece.epoch for block in blocks for piece in block.pieces}:
        order = KeyedPermutation(loader.sequences, sub_seed(SEED, "order", number))
        orders[number] = order(np.arange(loader.sequences)).tolist()
    expected = [
        orders[number][position] * loader.full_length + place
        for number, position, place in tokens_of(blocks)
    ]
    assert batch.inputs.shape == batch.targets.shape == (rows, length)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.flatten().tolist() == expected


@given(cases())
def test_every_target_is_the_true_successor_of_its_input(case: Case) -> None:
    loader, blocks, rows, length = case
    batch = loader.load(blocks, length, range(rows))
    assert torch.equal(batch.targets, batch.inputs + 1)
    assert batch.inputs.max() < loader.sequences * loader.full_length


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_it_reads_a_read_only_memory_map_of_either_width(
    tmp_path: Path, dtype: type[np.uint16]
) -> None:
    np.arange(65_500, 65_533).astype(dtype).tofile(tmp_path / "train.bin")
    loader = Loader(np.memmap(tmp_path / "train.bin", dtype, mode="r"), 8, SEED)
    blocks, _ = Ledger.start(sequences=4, full_length=8, reuse_after=1).take(4, 8)
    inputs, targets = loader.load(blocks, 8, range(4))
    assert sorted(inputs.flatten().tolist()) == list(range(65_500, 65_532))
    assert torch.equal(targets, inputs + 1)


@pytest.mark.parametrize(("tokens", "sequences"), [(9, 1), (16, 1), (17, 2), (24, 2), (25, 3)])
def test_the_last_sequence_has_its_last_target(tokens: int, sequences: int) -> None:
    assert Loader(counting(tokens), 8, SEED).sequences == sequences


def test_a_corpus_of_less_than_a_sequence_is_one_line() -> None:
    with pytest.raises(DataError) as error:
        Loader(counting(8), 8, SEED)
    assert str(error.value) == (
        "corpus: has 8 tokens, one sequence of length 8 needs 9; give more text or a smaller length"
    )
    with pytest.raises(SettingError, match=r"^full_length: must be at least 1, got 0$"):
        Loader(counting(8), 0, SEED)


def places_of_an_epoch(
    tokens: Tokens, *, rows: int, full_length: int, duration: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Train one epoch over `tokens`, a warmup first; yield where each input and target stands.

    Checks on the way what the ledger promises for every step, and that the tokens are those of the
    places.
    """
    loader = Loader(tokens, full_length, SEED)
    places = Loader(counting(len(tokens)), full_length, SEED)
    pacing = Linear(start=8, end=full_length, duration=duration)
    spacing = reuse_spacing(64, rows, loader.sequences)
    ledger = Ledger.start(sequences=loader.sequences, full_length=full_length, reuse_after=spacing)
    step = 0
    while ledger.unread:
        length = pacing(step)
        # The last step takes only the rows, and then the tokens, that are left of the epoch.
        now = min(rows, ledger.unread // length)
        shape = (now, length) if now else (1, ledger.unread)
        blocks, after = ledger.take(*shape)
        if length == full_length and ledger.fresh >= now > 0:
            assert [piece.tokens for block in blocks for piece in block.pieces] == [full_length]
        if step < duration:
            assert after.opened <= after.read // full_length + spacing * rows
        batch, where = (one.load(blocks, shape[1], range(shape[0])) for one in (loader, places))
        inputs, targets = where.inputs.numpy(), where.targets.numpy()
        assert (tokens[inputs] == batch.inputs.numpy()).all()
        assert (tokens[targets] == batch.targets.numpy()).all()
        yield inputs.ravel(), targets.ravel()
        ledger, step = after, step + 1
    assert step > duration, "the epoch must reach beyond its warmup"
    assert ledger.read == loader.sequences * full_length


def check_an_epoch(tokens: Tokens, *, rows: int, full_length: int, duration: int) -> None:
    trained = list(
        places_of_an_epoch(tokens, rows=rows, full_length=full_length, duration=duration)
    )
    used = (len(tokens) - 1) // full_length * full_length
    for side, first in ((0, 0), (1, 1)):
        counts = np.bincount(np.concatenate([step[side] for step in trained]))
        assert len(counts) == used + first
        assert (counts[first:] == 1).all()
        assert (counts[:first] == 0).all()


def test_one_epoch_trains_every_token_once_and_every_successor_once() -> None:
    tokens = np.random.default_rng(0).integers(0, 2**16, 300_000, dtype=np.uint16)
    check_an_epoch(tokens, rows=16, full_length=128, duration=150)


@pytest.mark.slow
@pytest.mark.skipif(not NOVELS.exists(), reason="needs the novels of ../shared/data")
def test_one_epoch_over_a_real_store_of_ten_million_tokens() -> None:
    with zstd.open(NOVELS) as text:
        tokens = np.frombuffer(text.read(10_500_000), dtype=np.uint8).astype(np.uint16)
    assert len(tokens) >= 10_000_000
    check_an_epoch(tokens, rows=64, full_length=1024, duration=200)


@given(
    slots=st.integers(1, 64), length=st.integers(1, 16), rows=st.integers(1, 100), data=st.data()
)
def test_spread_starts_cover_every_position_evenly(
    slots: int, length: int, rows: int, data: st.DataObject
) -> None:
    begin, full = data.draw(st.integers(0, 10**6), label="step"), slots * length
    steps = range(begin, begin + -(-slots // rows))
    starts = [row_starts(StepPlan(rows, length, 0.0), step, full).tolist() for step in steps]
    covered = {start + token for step in starts for start in step for token in range(length)}
    assert covered == set(range(full))
    for step in starts:  # no multiple begins two rows more than another
        counts = [step.count(slot * length) for slot in range(slots)]
        assert sum(counts) == rows
        assert max(counts) - min(counts) <= 1


def test_rows_cut_in_place_start_where_they_lie() -> None:
    plan = StepPlan(rows=12, length=16, learning_rate=0.0)
    for step in range(3):
        assert row_starts(plan, step, 64).tolist() == [0, 16, 32, 48] * 3


def test_a_function_whose_length_does_not_divide_is_refused_as_it_runs() -> None:
    with pytest.raises(SettingError, match=r"^pacing: must have lengths that divide .*, got 24$"):
        row_starts(StepPlan(rows=1, length=24, learning_rate=0.0), 0, 64)
