"""The walk through a run: every step's tokens once, whatever the split and wherever it resumes."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthen.core.ledger import Leftovers
from lengthen.core.pacing import Constant, Doubling, Linear
from lengthen.core.schedule import Schedule, steps
from lengthen.data.loader import Loader, MicroBatch, micro_batch, micro_batches
from lengthen.data.stream import (
    Step,
    StepCursor,
    StepStream,
    StreamState,
    accumulation_steps,
    ledgers,
    row_range,
)

SCHEDULE = Schedule(
    pacing=Linear(start=8, end=32, duration=6),
    full_length=32,
    rows=6,
    budget=1_800,
    learning_rate=1.0,
    min_learning_rate=0.0,
    warmup_steps=3,
    decay_tokens=1_800,
)
LOADER = Loader(np.arange(3001, dtype=np.uint16), 32, seed=0)


def stream(leftovers: Leftovers = "requeue") -> StepStream:
    schedule = replace(SCHEDULE, leftovers=leftovers)
    return StepStream(schedule, LOADER.sequences, reuse_after=2)


def walked(source: StepStream, state: StreamState) -> list[Step]:
    found = []
    while step := source.after(state):
        found.append(step)
        state = step.after
    return found


IN_ORDER = walked(stream(), stream().start)


def of_rank(step: Step, rank: int, world_size: int, count: int) -> list[MicroBatch]:
    rows = row_range(step.plan, rank, world_size)
    batch = LOADER.load(step.blocks, step.plan.length, rows)
    return micro_batches(batch, step.plan, rank, world_size, count)


def test_the_steps_are_those_of_the_schedule_and_take_their_tokens_from_the_ledger() -> None:
    assert [step.plan for step in IN_ORDER] == [plan for _, plan in steps(SCHEDULE)]
    assert [step.number for step in IN_ORDER] == [*range(1, len(IN_ORDER) + 1)]
    for step in IN_ORDER:
        assert sum(block.tokens for block in step.blocks) == step.plan.tokens
        assert step.after.ledger.read == step.tokens


@given(
    number=st.integers(0, len(IN_ORDER) - 1),
    world_size=st.integers(1, 8),
    spare=st.integers(0, 200),
)
def test_ranks_and_micro_batches_laid_end_to_end_are_the_step(
    number: int, world_size: int, spare: int
) -> None:
    step = IN_ORDER[number]
    (whole,) = of_rank(step, 0, 1, 1)
    micro_tokens = 32 + spare
    count = accumulation_steps(step.plan.rows, world_size, step.plan.length, micro_tokens)
    parts = [part for rank in range(world_size) for part in of_rank(step, rank, world_size, count)]
    assert len(parts) == world_size * count
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert max(part.inputs.numel() for part in parts) <= micro_tokens
    rows = [round(part.share * step.plan.rows) for part in parts]
    assert max(rows) - min(rows) <= 1
    for side in ("inputs", "targets"):
        joined = torch.cat([getattr(part, side) for part in parts if part.share])
        assert torch.equal(joined, getattr(whole, side))


@given(world_size=st.integers(1, 4), count=st.integers(1, 4))
def test_a_micro_batch_by_itself_is_the_one_that_its_rank_gets(world_size: int, count: int) -> None:
    step = IN_ORDER[3]
    for rank in range(world_size):
        for part, expected in enumerate(of_rank(step, rank, world_size, count)):
            alone = micro_batch(LOADER, step, row_range(step.plan, rank, world_size, part, count))
            assert torch.equal(alone.inputs, expected.inputs)
            assert alone[2:] == expected[2:]


def test_a_micro_batch_without_rows_has_a_blank_one_that_weighs_nothing() -> None:
    parts = of_rank(IN_ORDER[0], 0, 4, 3)
    assert [part.share for part in parts] == [0.0, 1 / 6, 0.0]
    assert parts[0].inputs.shape == parts[0].targets.shape == (1, 8)
    assert parts[0].inputs.dtype == torch.int64


@given(numbers=st.lists(st.integers(1, len(IN_ORDER)), min_size=1, max_size=6))
def test_a_cursor_gives_any_step_by_its_number(numbers: list[int]) -> None:
    cursor = StepCursor(stream(), stream().start)
    assert [cursor.at(number) for number in numbers] == [IN_ORDER[n - 1] for n in numbers]


@given(number=st.integers(0, len(IN_ORDER) - 1))
def test_a_walk_resumes_from_json_where_it_was(number: int) -> None:
    state = json.loads(json.dumps(IN_ORDER[number].after.state()))
    assert walked(stream(), StreamState.from_state(state)) == IN_ORDER[number + 1 :]


@pytest.mark.parametrize("leftovers", get_args(Leftovers))
def test_the_ledgers_of_equal_steps_end_as_those_of_the_steps_one_by_one(
    leftovers: Leftovers,
) -> None:
    ledger = expected = stream(leftovers).start.ledger
    plan = replace(IN_ORDER[0].plan, rows=8)
    for _ in range(40):
        _, expected = expected.take(plan.rows, plan.length)
    *_, last = ledgers(ledger, plan, 40)
    assert (last.read, last.leftover, last.dropped, last.epoch) == (
        expected.read,
        expected.leftover,
        expected.dropped,
        expected.epoch,
    )


@given(
    start=st.sampled_from([1, 2, 4, 8, 16, 32]),
    duration=st.integers(0, 12),
    rows=st.integers(1, 9),
    budget=st.integers(288, 8_000),
    world_size=st.integers(1, 3),
)
def test_rows_cut_in_place_hold_the_tokens_of_the_baseline_at_every_step(
    start: int, duration: int, rows: int, budget: int, world_size: int
) -> None:
    baseline = replace(SCHEDULE, pacing=Constant(end=32), rows=rows, budget=budget)
    pacing = Doubling(start=start, end=32, duration=duration)
    short = replace(baseline, pacing=pacing, hold="tokens", leftovers="in_place")
    assert not list(short.mistakes())
    cut, whole = (
        walked(one, one.start)
        for one in (StepStream(s, LOADER.sequences, reuse_after=2) for s in (short, baseline))
    )
    for ours, theirs in zip(cut, whole, strict=True):
        assert (ours.number, ours.tokens, ours.joined) == (theirs.number, theirs.tokens, 0)
        assert ours.plan.length == pacing(ours.number - 1)
        ranks = [of_rank(ours, rank, world_size, 2) for rank in range(world_size)]
        (full,) = of_rank(theirs, 0, 1, 1)
        for side in ("inputs", "targets"):
            parts = [getattr(one, side) for rank in ranks for one in rank if one.share]
            assert torch.equal(torch.cat(parts).reshape(-1, 32), getattr(full, side))
        state = json.loads(json.dumps(ours.after.state()))
        assert StreamState.from_state(state) == ours.after


@given(
    rows=st.integers(1, 5000),
    world_size=st.integers(1, 64),
    length=st.integers(1, 1024),
    spare=st.integers(0, 10_000),
)
def test_no_fewer_micro_batches_would_do(
    rows: int, world_size: int, length: int, spare: int
) -> None:
    count = accumulation_steps(rows, world_size, length, length + spare)
    most_rows = -(-rows // world_size)
    assert -(-most_rows // count) * length <= length + spare
    assert count == 1 or -(-most_rows // (count - 1)) * length > length + spare


def test_a_short_step_is_one_micro_batch_and_not_many_of_few_rows() -> None:
    assert accumulation_steps(rows=512, world_size=1, length=16, micro_tokens=8192) == 1
    assert accumulation_steps(rows=512, world_size=1, length=1024, micro_tokens=8192) == 64
    assert accumulation_steps(rows=3, world_size=8, length=1024, micro_tokens=8192) == 1
