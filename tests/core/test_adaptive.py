"""Adaptive pacing in a live run: what it decided is in the log, and follows from it."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lengthen.config.schema import Config
from lengthen.core.loss_ratio import OBSERVED_SEQUENCES
from lengthen.core.pacing import Adaptive
from lengthen.evaluation.loss import validation_loss
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.training import trainer as training
from lengthen.training.branch import branch
from lengthen.training.start import resume, train
from lengthen.training.trainer import Trainer
from lengthen.util.errors import DataError
from tests.conftest import Configure, trainer_of
from tests.ranks import joined_trainer, results

ADAPTIVE: dict[str, Any] = {
    "pacing": {"kind": "adaptive", "every": 1, "patience": 2, "max_hold": 6, "multiple": 8},
    "budget": {"tokens": 16_000},
    "saving": {"every_steps": 0},
}


def trained(config: Config, run: Path) -> Metrics:
    train(config, run, quiet=True)
    return read_metrics(RunPaths(run).metrics)


def replayed(pacing: Adaptive, metrics: Metrics) -> Iterator[tuple[int, int]]:
    """Each decision, as the pure function makes it from the losses in the log."""
    state = pacing.begin()
    for record in metrics.observations:
        assert pacing.observes(state, record.step)
        loss = math.nan if record.loss is None else record.loss
        state = pacing.next(state, record.step, loss)
        yield record.step, state.value


def test_a_replay_from_the_log_makes_the_live_decisions(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(**ADAPTIVE)
    assert isinstance(config.pacing, Adaptive)
    metrics = trained(config, tmp_path / "run")
    decided = [(record.step, record.next_length) for record in metrics.observations]
    assert list(replayed(config.pacing, metrics)) == decided
    lengths = {0: config.pacing.start, **dict(decided)}
    current = 0
    for step in metrics.steps:
        current = lengths.get(step.step - 1, current)
        assert step.length == current
    assert current == config.model.length
    grown = [event for event in metrics.events if event.name == "length"]
    assert [event.facts["length"] for event in grown] == [16, 24, 32, 40, 48, 56, 64]
    assert all(1 <= event.facts["steps_at_length"] <= 6 for event in grown)


def test_an_observation_is_of_the_fronts_of_the_first_sequences(
    configured: Configure, tmp_path: Path
) -> None:
    metrics = trained(configured(**ADAPTIVE), tmp_path / "run")
    for record in metrics.observations:
        assert record.side_tokens == OBSERVED_SEQUENCES * record.length
        assert (record.side_seconds or 0) > 0


def test_it_holds_at_a_planted_spike_and_then_goes_on(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = 0

    def spiky(*places: Any, length: int | None = None, **named: Any) -> float | None:
        nonlocal observed
        if length is None:
            return validation_loss(*places, **named)
        observed += 1
        return 9.0 if 4 <= observed <= 6 else 5.0 - 0.01 * observed

    monkeypatch.setattr(training, "validation_loss", spiky)
    metrics = trained(configured(**ADAPTIVE), tmp_path / "run")
    after = [record.next_length for record in metrics.observations]
    # Two calm ones grow; the spike of observations 4 to 6 holds 16 until two calm ones follow.
    assert after[:9] == [8, 16, 16, 16, 16, 16, 16, 24, 24]
    assert after[-1] == 64


@pytest.mark.parametrize("planted", [math.nan, math.inf])
def test_a_model_that_never_calms_down_reaches_the_end_all_the_same(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: float
) -> None:
    monkeypatch.setattr(training, "validation_loss", lambda *_, **__: planted)
    tables = {**ADAPTIVE, "budget": {"tokens": 30_000}}
    metrics = trained(configured(**tables), tmp_path / "run")
    assert metrics.steps[-1].length == 64
    steps = [event.facts["steps_at_length"] for event in metrics.events if event.name == "length"]
    assert steps == [6] * 7


def states(trainer: Trainer) -> dict[str, Any]:
    """Train to the end; return every loss that was observed, and every state that it led to."""
    grown, losses = [], []
    while trainer.schedule.step_plan(trainer.train_state.counters) is not None:
        if trainer.schedule.observes(trainer.train_state.counters):
            record = trainer.observe()
            state = trainer.train_state.counters.adaptive
            assert record is not None
            assert state is not None
            losses.append(record.loss)
            grown.append({**asdict(state), "lowest": None})  # the losses say it to rounding
        trainer.step()
    return {"losses": losses, "grown": grown}


@pytest.mark.ranks
def test_two_processes_decide_alike_and_as_one(configured: Configure) -> None:
    config = configured(**ADAPTIVE, run={"precision": "fp64"})

    def states_of_a_rank() -> Any:
        with joined_trainer(config) as trainer:
            return states(trainer)

    first, second = results(states_of_a_rank, states_of_a_rank)
    assert first == second  # to the last digit, or one of them waits for ever one day
    alone = states(trainer_of(config))
    assert first["grown"] == alone["grown"]
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-9)
    assert first["grown"][-1]["value"] == 64
    assert any(one["value"] == two["value"] for one, two in pairwise(first["grown"]))


def test_without_a_validation_part_it_has_nothing_to_look_at(
    configured: Configure, tmp_path: Path
) -> None:
    tables = {**ADAPTIVE, "model": {"length": 8192}, "evaluation": {"every_steps": 0}}
    tables["batch"] = {"rows": 1, "micro_tokens": 8192}
    with pytest.raises(DataError, match=r"valid.*pace adaptively"):
        train(configured(**tables), tmp_path / "run", quiet=True)


@pytest.mark.parametrize("tokens", range(2000, 2520, 40))
def test_a_run_ends_well_where_growth_leaves_no_room_for_one_more_row(
    configured: Configure, tmp_path: Path, tokens: int
) -> None:
    pacing = {"kind": "adaptive", "every": 1, "patience": 1, "multiple": 8}
    tables = {**ADAPTIVE, "pacing": pacing, "batch": {"rows": 4}, "budget": {"tokens": tokens}}
    metrics = trained(configured(**tables), tmp_path / "run")
    last = metrics.steps[-1]
    assert metrics.events[-1].name == "finished"
    assert metrics.evaluations[-1].step == last.step
    assert tokens - (last.tokens or 0) < 64


@pytest.mark.parametrize(("change", "lengths"), [({"end": 32}, {32}), ({"start": 64}, {64})])
def test_a_resume_with_another_start_or_end_keeps_to_them(
    configured: Configure, tmp_path: Path, change: dict[str, int], lengths: set[int]
) -> None:
    pacing = {"kind": "adaptive", "every": 1, "patience": 1, "max_hold": 3, "multiple": 8}
    first = trained(configured(pacing=pacing, budget={"tokens": 1_344}), tmp_path).steps
    assert first[-1].length == 48
    resume(tmp_path, settings={"pacing": change, "budget": {"tokens": 8_000}}, quiet=True)
    steps = read_metrics(RunPaths(tmp_path).metrics).steps[len(first) :]
    assert {step.length for step in steps} == lengths


@pytest.mark.parametrize("before", ["constant", "adaptive"])
def test_a_resume_that_changes_to_an_adaptive_pacing_begins_at_its_start(
    configured: Configure, tmp_path: Path, before: str
) -> None:
    adaptive = {**ADAPTIVE["pacing"], "start": 8, "every": 4, "max_hold": 8}
    constant = {"kind": "constant"}
    first = {"constant": constant, "adaptive": adaptive}[before]
    train(configured(pacing=first, budget={"tokens": 16_000}), tmp_path, quiet=True)
    for pacing, tokens in ((constant, 19_000), (adaptive, 35_000)):
        begun = len(read_metrics(RunPaths(tmp_path).metrics).steps)
        resume(tmp_path, settings={"pacing": pacing, "budget": {"tokens": tokens}}, quiet=True)
    steps = read_metrics(RunPaths(tmp_path).metrics).steps[begun:]
    assert [step.length for step in steps[:9]] == [8] * 8 + [16]


@pytest.mark.parametrize("before", ["constant", "adaptive"])
def test_a_branch_that_changes_to_an_adaptive_pacing_begins_at_its_start(
    configured: Configure, tmp_path: Path, before: str
) -> None:
    adaptive = {**ADAPTIVE["pacing"], "start": 8, "every": 4, "max_hold": 8}
    first = {"constant": {"kind": "constant"}, "adaptive": adaptive}[before]
    trunk, new = tmp_path / "trunk", tmp_path / "new"
    train(configured(pacing=first, budget={"tokens": 16_000}), trunk, quiet=True)
    resume(trunk, settings={"pacing.kind": "constant", "budget.tokens": 19_000}, quiet=True)
    begun = len(read_metrics(trunk).steps)
    branch(trunk, new, settings={"pacing": adaptive, "budget.tokens": 35_000}, quiet=True)
    assert [step.length for step in read_metrics(new).steps[begun:][:9]] == [8] * 8 + [16]


def test_a_higher_start_before_the_first_observation_holds_from_the_resume_on(
    configured: Configure, tmp_path: Path
) -> None:
    pacing = {"kind": "adaptive", "start": 8, "every": 40, "max_hold": 40}
    short = trained(configured(pacing=pacing, budget={"tokens": 64 * 30}), tmp_path).steps
    settings = {"pacing.start": 16, "budget.tokens": 10_000}
    resume(tmp_path, settings=settings, quiet=True)
    steps = read_metrics(tmp_path).steps[len(short) :]
    assert [step.length for step in steps[:41]] == [16] * 40 + [24]
