"""The ledger's laws (design 2.2), for any steps, and against a model that stores every token."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.core.ledger import (
    Block,
    Ledger,
    Leftovers,
    Piece,
    Stretch,
    joined_tokens,
    reuse_spacing,
)
from lengthen.util.errors import CheckpointError, SettingError
from tests.naive_ledger import NaiveLedger, Token, tokens_of

Shape = tuple[int, int]  # rows, length


@dataclass(frozen=True)
class Case:
    """A small corpus and some steps on it."""

    ledger: Ledger
    steps: list[Shape]

    @property
    def tokens_of_an_epoch(self) -> int:
        return self.ledger.sequences * self.ledger.full_length


@dataclass(frozen=True)
class Step:
    """One take: the ledgers around it, and what it read."""

    before: Ledger
    rows: int
    length: int
    blocks: tuple[Block, ...]
    after: Ledger

    @property
    def tokens(self) -> list[Token]:
        return list(tokens_of(self.blocks))


def resumed(ledger: Ledger) -> Ledger:
    return Ledger.from_state(json.loads(json.dumps(ledger.state())))


def run(ledger: Ledger, shapes: Iterable[Shape]) -> Iterator[Step]:
    """Yield the steps of a run that is stopped and resumed between any two of them."""
    for rows, length in shapes:
        blocks, after = ledger.take(rows, length)
        yield Step(ledger, rows, length, blocks, after)
        ledger = resumed(after)


@st.composite
def cases(draw: st.DrawFn, leftovers: Leftovers = "requeue", held: bool = False) -> Case:
    """Draw a corpus and steps: any shapes, each kept for a while, so that leftovers ripen.

    In place their lengths divide the full one, and their rows are whole sequences.
    """
    full_length, kept = draw(st.integers(1, 32)), draw(st.integers(1, 8))
    rows = st.integers(1, draw(st.sampled_from([3, 60])))
    lengths = st.one_of(st.integers(1, full_length), st.just(full_length))
    if held:
        rows = st.just(draw(rows))
    if leftovers == "in_place":
        lengths = lengths.filter(lambda length: full_length % length == 0)
    phases = draw(st.lists(st.tuples(rows, lengths, st.integers(1, kept)), min_size=1, max_size=8))
    if leftovers == "in_place":
        phases = [(rows * (full_length // length), length, n) for rows, length, n in phases]
    ledger = Ledger.start(
        sequences=draw(st.integers(1, 40)),
        full_length=full_length,
        reuse_after=draw(st.integers(1, 8)),
        leftovers=leftovers,
    )
    return Case(ledger, [(rows, length) for rows, length, times in phases for _ in range(times)])


ALL_WAYS = st.one_of(cases(), cases(leftovers="drop"), cases(leftovers="in_place"))
ALL_READ = st.one_of(cases(), cases(leftovers="in_place"))


@given(ALL_WAYS)
def test_it_reads_what_a_ledger_of_single_tokens_reads(case: Case) -> None:
    ledger = case.ledger
    naive = NaiveLedger(ledger.sequences, ledger.full_length, ledger.reuse_after, ledger.leftovers)
    for step in run(ledger, case.steps):
        assert step.tokens == naive.take(step.rows, step.length)
        open_ones = [
            (stretch.first + i, stretch.offset)
            for stretch in step.after.queue
            for i in range(stretch.count)
        ]
        assert open_ones == [(one.position, one.offset) for one in naive.queue]


@given(ALL_WAYS)
def test_every_step_has_its_tokens_and_the_state_restores_exactly(case: Case) -> None:
    for step in run(case.ledger, case.steps):
        assert sum(block.tokens for block in step.blocks) == step.rows * step.length
        assert resumed(step.after) == step.after


@given(ALL_WAYS)
def test_a_take_changes_nothing(case: Case) -> None:
    ledger, state = case.ledger, case.ledger.state()
    rows, length = case.steps[0]
    once, again = ledger.take(rows, length), ledger.take(rows, length)
    assert once == again
    assert ledger.state() == state


@given(ALL_READ)
def test_over_a_pass_each_token_is_read_exactly_once(case: Case) -> None:
    rows, length = case.steps[-1]
    more = 1 + case.tokens_of_an_epoch // (rows * length)  # so that at least one epoch is finished
    read = Counter(
        token
        for step in run(case.ledger, case.steps + more * [(rows, length)])
        for token in step.tokens
    )
    assert set(read.values()) == {1}
    last = max(epoch for epoch, _, _ in read)
    per_pass = Counter(epoch for epoch, _, _ in read)
    assert all(per_pass[finished] == case.tokens_of_an_epoch for finished in range(last))
    assert all(position < case.ledger.sequences for _, position, _ in read)
    assert all(place < case.ledger.full_length for _, _, place in read)


@given(ALL_WAYS)
def test_a_pass_begins_where_the_one_before_it_ends(case: Case) -> None:
    numbers = [number for step in run(case.ledger, case.steps) for number, _, _ in step.tokens]
    assert numbers[0] == 0
    assert all(later - one in (0, 1) for one, later in pairwise(numbers))


@given(ALL_WAYS)
def test_every_token_is_read_dropped_or_unread(case: Case) -> None:
    read = 0
    for step in run(case.ledger, case.steps):
        read += step.rows * step.length
        after = step.after
        epochs = after.epoch + 1
        assert after.read == read
        assert after.read + after.dropped + after.unread == epochs * case.tokens_of_an_epoch
        assert after.unread - after.leftover == after.fresh * after.full_length
        assert after.leftover == 0 or after.leftovers == "requeue"
        assert after.dropped == 0 or after.leftovers == "drop"


@given(cases(leftovers="in_place"))
def test_in_place_each_step_reads_in_order_what_one_at_full_length_reads(case: Case) -> None:
    full_length = case.ledger.full_length
    baseline = replace(case.ledger, leftovers="requeue")
    for step in run(case.ledger, case.steps):
        blocks, baseline = baseline.take(step.rows * step.length // full_length, full_length)
        assert step.tokens == list(tokens_of(blocks))
        assert joined_tokens(step.blocks, step.length) == 0
        assert replace(step.after, leftovers="requeue") == baseline


@given(cases(leftovers="drop"))
def test_dropping_reads_the_front_of_every_sequence_once_and_counts_the_rest(case: Case) -> None:
    dropped = 0
    for step in run(case.ledger, case.steps):
        assert all(piece.offset == 0 for block in step.blocks for piece in block.pieces)
        assert sum(block.count for block in step.blocks) == step.rows
        dropped += step.rows * (case.ledger.full_length - step.length)
        assert step.after.dropped == dropped


def positions_of(blocks: tuple[Block, ...]) -> Iterator[tuple[int, int]]:
    """Yield epoch and position of every piece, as often as it is read."""
    for block in blocks:
        for piece in block.pieces:
            for i in range(block.count):
                yield piece.epoch, piece.first + i


@given(cases())
def test_a_sequence_rests_while_fresh_ones_remain(case: Case) -> None:
    last_read: dict[tuple[int, int], int] = {}
    rest = case.ledger.reuse_after
    for number, step in enumerate(run(case.ledger, case.steps)):
        for epoch, position in positions_of(step.blocks):
            if step.after.fresh and step.after.epoch == epoch:
                assert number - last_read.get((epoch, position), -rest) >= rest
            last_read[epoch, position] = number


@given(cases(held=True))
def test_a_warmup_opens_no_more_than_its_tokens_and_r_steps_need(case: Case) -> None:
    tokens = 0
    for step in run(case.ledger, case.steps):
        tokens += step.rows * step.length
        if step.after.epoch > 0:
            break
        most = tokens // case.ledger.full_length + case.ledger.reuse_after * step.rows
        assert step.after.opened <= most


@given(cases())
def test_steps_at_full_length_read_whole_fresh_sequences_while_there_are_any(case: Case) -> None:
    full = case.ledger.full_length
    for step in run(case.ledger, [*case.steps, (2, full), (1, full)]):
        enough = step.before.fresh >= step.rows
        if step.length == full and enough:
            begin = step.before.opened
            piece = Piece(step.before.epoch, begin, 0, full)
            assert step.blocks == (Block(step.rows, (piece,)),)


@given(cases())
def test_rows_are_whole_or_two_pieces_until_the_fresh_sequences_end(case: Case) -> None:
    for step in run(case.ledger, case.steps):
        if step.after.epoch == step.before.epoch and step.after.fresh:
            for block in step.blocks:
                assert len(block.pieces) <= 2
                assert block.tokens == block.count * step.length


phases = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 64), st.sampled_from([1, 5, 15, 40])),
    min_size=1,
    max_size=6,
)


def longest_queue(reuse_after: int, phases: list[tuple[int, int, int]]) -> int:
    ledger = Ledger.start(sequences=10**9, full_length=64, reuse_after=reuse_after)
    longest = 0
    for rows, length, times in phases:
        for _ in range(times):
            ledger = ledger.take(rows, length)[1]
            longest = max(longest, len(ledger.queue))
    return longest


@given(reuse_after=st.integers(1, 12), phases=phases)
def test_the_state_follows_r_and_the_changes_of_rows_and_length(
    reuse_after: int, phases: list[tuple[int, int, int]]
) -> None:
    falling = sorted((rows for rows, _, _ in phases), reverse=True)
    never_rising = [(rows, length, n) for rows, (_, length, n) in zip(falling, phases, strict=True)]
    changes = len(phases) - 1
    assert longest_queue(reuse_after, never_rising) <= reuse_after + 3 * changes
    # Where rows rise, every group of sequences that ripen together gets a neighbour of its own.
    assert longest_queue(reuse_after, phases) <= reuse_after * len(phases) + 3 * changes


def test_the_state_does_not_grow_over_a_long_warmup_of_held_tokens() -> None:
    ledger = Ledger.start(sequences=10**9, full_length=1024, reuse_after=64)
    for step in range(5000):
        length = 8 + 8 * (step // 200)
        ledger = ledger.take(512 * 1024 // length, length)[1]
    assert len(ledger.queue) <= 64 + 3 * 24
    assert len(json.dumps(ledger.state())) < 5000


def test_a_sequence_goes_round_the_queue_and_its_scrap_meets_a_fresh_one() -> None:
    ledger = Ledger.start(sequences=100, full_length=10, reuse_after=1)
    seen = []
    for _ in range(4):
        blocks, ledger = ledger.take(2, 4)
        seen.append(blocks)
    assert seen == [
        (Block(2, (Piece(0, 0, 0, 4),)),),
        (Block(2, (Piece(0, 0, 4, 4),)),),
        (Block(2, (Piece(0, 0, 8, 2), Piece(0, 2, 0, 2))),),
        (Block(2, (Piece(0, 2, 2, 4),)),),
    ]
    assert ledger.queue == (Stretch(2, 2, 6, 3),)


def test_a_row_that_the_end_of_a_pass_leaves_unfinished_is_filled_with_a_fresh_sequence() -> None:
    ledger = Ledger.start(sequences=2, full_length=10, reuse_after=5)
    _, ledger = ledger.take(2, 4)
    blocks, ledger = ledger.take(3, 5)
    assert blocks == (
        Block(2, (Piece(0, 0, 4, 6),)),
        Block(1, (Piece(1, 0, 0, 3),)),
    )
    assert joined_tokens(blocks, 5) == 10  # the second row and the third
    assert (ledger.epoch, ledger.opened, ledger.leftover, ledger.unread) == (1, 1, 7, 17)


@given(ALL_WAYS)
def test_joined_tokens_counts_the_rows_of_more_than_one_piece(case: Case) -> None:
    for step in run(case.ledger, case.steps):
        tokens = step.tokens
        rows = [tokens[i : i + step.length] for i in range(0, len(tokens), step.length)]
        joined = sum(
            any(later != (one[0], one[1], one[2] + 1) for one, later in pairwise(row))
            for row in rows
        )
        assert joined_tokens(step.blocks, step.length) == joined * step.length


def test_reuse_spacing_keeps_its_steps_to_an_eighth_of_the_corpus() -> None:
    assert reuse_spacing(64, rows=8, sequences=10**6) == 64
    assert reuse_spacing(64, rows=10, sequences=800) == 10
    assert reuse_spacing(64, rows=512, sequences=100) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": 0}, "sequences: must be at least 1, got 0"),
        ({"full_length": 0}, "full_length: must be at least 1, got 0"),
        ({"reuse_after": 0}, "reuse_after: must be at least 1, got 0"),
        (
            {"leftovers": "dorp"},
            "leftovers: no such way, got 'dorp'; did you mean 'drop'?",
        ),
    ],
)
def test_a_wrong_start_is_one_line(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"sequences": 1, "full_length": 1, "reuse_after": 1}
    with pytest.raises(SettingError) as error:
        Ledger.start(**{**good, **changes})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 4), "rows: must be at least 1, got 0"),
        ((1, 0), "length: must be from 1 to 10, got 0"),
        ((1, 11), "length: must be from 1 to 10, got 11"),
    ],
)
def test_a_wrong_take_is_one_line(shape: Shape, message: str) -> None:
    with pytest.raises(SettingError) as error:
        Ledger.start(sequences=4, full_length=10, reuse_after=1).take(*shape)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4), "pacing: must have lengths that divide 10 in place, got 4"),
        ((3, 5), "rows: must be a multiple of 2 in place, got 3"),
    ],
)
def test_a_take_in_place_is_of_whole_sequences(shape: Shape, message: str) -> None:
    ledger = Ledger.start(sequences=4, full_length=10, reuse_after=1, leftovers="in_place")
    with pytest.raises(SettingError) as error:
        ledger.take(*shape)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"takes": -1},
        {"takes": 1.0},
        {"takes": True},
        {"opened": 5},
        {"epoch": -1},
        {"dropped": 10**6},
        {"reuse_after": 0},
        {"leftovers": "lost"},
        {"queue": None},
        {"queue": [[0, 2, 4]]},
        {"queue": [[0, 3, 4, 0]]},
        {"queue": [[0, 2, 10, 0]]},
        {"queue": [[0, 2, 4, 1]]},
        {"queue": [[0, 1, 4, 1], [1, 1, 4, 0]], "takes": 2},
        {"queue": [["0", 2, 4, 0]]},
        {"unknown": 1},
    ],
)
def test_a_state_that_no_ledger_gives_is_refused(changes: dict[str, Any]) -> None:
    _, ledger = Ledger.start(sequences=4, full_length=10, reuse_after=1).take(2, 4)
    state = ledger.state()
    assert state["queue"] == [[0, 2, 4, 0]]
    assert Ledger.from_state(state) == ledger
    with pytest.raises(CheckpointError, match=r"^ledger state: .*checkpoint$"):
        Ledger.from_state({**state, **changes})
    with pytest.raises(CheckpointError):
        Ledger.from_state({name: state[name] for name in state if name != "takes"})


COUNTS = ("epoch", "opened", "dropped", "leftover", "unread", "read", "takes", "fresh")


@given(
    sequences=st.integers(1, 40),
    leftovers=st.sampled_from(get_args(Leftovers)),
    before=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 8)), max_size=12),
    rows=st.integers(1, 50),
    length=st.integers(1, 8),
    steps=st.integers(0, 60),
)
def test_equal_steps_of_whole_rows_can_be_taken_at_once(
    sequences: int,
    leftovers: Leftovers,
    before: list[tuple[int, int]],
    rows: int,
    length: int,
    steps: int,
) -> None:
    ledger = Ledger.start(sequences=sequences, full_length=8, reuse_after=3, leftovers=leftovers)
    if leftovers == "in_place":
        before = [(rows * 8, length) for rows, length in before if 8 % length == 0]
        rows, length = rows * 8, length if 8 % length == 0 else 8
    for shape in before:
        _, ledger = ledger.take(*shape)
    length = 8 if leftovers == "requeue" else length
    at_once = one_by_one = ledger
    at_once = at_once.after(rows, length, steps)
    for _ in range(steps):
        _, one_by_one = one_by_one.take(rows, length)
    for name in COUNTS:
        assert getattr(at_once, name) == getattr(one_by_one, name), name
