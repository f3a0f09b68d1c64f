"""What a rank trains on is the step stream's, whatever was read early."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lengthen.data.open_store import open_store
from lengthen.data.stream import Step, StreamState, row_range
from lengthen.distributed.context import DistributedContext
from lengthen.training.inputs import StepInput, StepInputs
from tests.conftest import Configure

CPU = torch.device("cpu")


def taken(inputs: StepInputs, state: StreamState | None = None) -> list[tuple[Step, StepInput]]:
    """Return every step after `state` with what it trains on."""
    state, found = state or inputs.stream.start, []
    while step := inputs.step_after(state):
        found.append((step, inputs.of(step)))
        state = step.after
    return found


def equal(one: StepInput, other: StepInput) -> bool:
    pairs = zip((*one.batch, *one.sides), (*other.batch, *other.sides), strict=True)
    return all(torch.equal(a, b) if a is not None and b is not None else a is b for a, b in pairs)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("documents", ["attend", "mask"])
def test_a_step_read_early_is_the_step_read_alone(
    configured: Configure, documents: str, rank: int
) -> None:
    config = configured(
        data={"documents": documents},
        model={"positions": "rope", "positions_start": "spread"},
        pacing={"kind": "doubling", "start": 8, "duration": 12},
    )
    store, context = open_store(config), DistributedContext(CPU, rank=rank, world_size=2)
    found = taken(StepInputs(config, store, context))
    assert len(found) > 12
    state = StepInputs(config, store, context).stream.start
    for step, read in found:
        alone = StepInputs(config, store, context)
        assert alone.step_after(state) == step
        assert equal(read, alone.of(step))
        assert len(read.batch.inputs) == len(row_range(step.plan, rank, 2))
        state = step.after


def test_a_thread_reads_the_next_step_while_this_one_computes(configured: Configure) -> None:
    config, readers = configured(), []
    inputs = StepInputs(config, open_store(config), DistributedContext(CPU))
    load = inputs.loader.load

    def noted(*args: object) -> object:
        readers.append(threading.current_thread().name)
        return load(*args)  # type: ignore[arg-type]

    inputs.loader.load = noted  # type: ignore[assignment, method-assign]
    steps = len(taken(inputs))
    assert readers[0] == "MainThread"
    assert len(readers) == steps
    assert all(name.startswith("read-ahead") for name in readers[1:])


def test_a_closed_reader_leaves_no_thread(configured: Configure) -> None:
    config = configured()
    before = {*threading.enumerate()}
    inputs = StepInputs(config, open_store(config), DistributedContext(CPU))
    taken(inputs)
    (reader,) = {*threading.enumerate()} - before
    inputs.close()
    assert not reader.is_alive()


def test_a_run_that_stands_elsewhere_takes_its_own_next_step(configured: Configure) -> None:
    config = configured()
    inputs = StepInputs(config, open_store(config), DistributedContext(CPU))
    first, *_, tenth = [step for step, _ in taken(inputs)][:10]
    inputs.step_after(inputs.stream.start)
    inputs.of(first)  # the second step is read now
    elsewhere = inputs.step_after(tenth.after)
    assert elsewhere is not None
    assert elsewhere.number == tenth.number + 1
    assert inputs.of(elsewhere).batch.inputs.shape == (elsewhere.plan.rows, elsewhere.plan.length)


def test_nothing_is_read_ahead_of_a_step_that_waits_for_an_observation(
    configured: Configure, tmp_path: Path
) -> None:
    adaptive = {"kind": "adaptive", "start": 8, "every": 3, "duration": None}
    config = configured(pacing=adaptive)
    inputs = StepInputs(config, open_store(config), DistributedContext(CPU))
    state = inputs.stream.start
    for _ in range(9):
        step = inputs.step_after(state)
        assert step is not None
        inputs.of(step)
        waits = inputs.stream.schedule.observes(step.after.counters)
        assert (inputs._ahead is None) == waits
        state = step.after
        if waits:  # the loss falls: the pacing grows, and so does the next step
            counters = inputs.stream.schedule.observed(state.counters, 5.0 - state.counters.step)
            state = replace(state, counters=counters)
    assert state.counters.adaptive is not None
