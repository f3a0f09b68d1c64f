"""Time left in a warmup: by the lengths to come, within a factor of 1.5 from a tenth on."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lengthen.config.load import with_overrides
from lengthen.config.schema import Config
from lengthen.core.schedule import Counters, StepPlan, steps
from lengthen.model import cost
from lengthen.run.metrics import read_metrics
from lengthen.run.records import StepRecord
from lengthen.training.start import resume, train
from lengthen.training.time_left import Rest, TimeLeft
from tests.conftest import Configure

EVERY, BESIDE = 10, 0.004  # a probe comes after so many steps, and takes so many seconds


class Clock:
    """A machine on which nothing takes time but what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def seconds_of(config: Config, plan: StepPlan, each: float) -> float:
    """Return what a step takes where the speed grows with the tokens of a step, as it does."""
    flops = cost.flops(config.model, plan.rows, plan.length)
    return each + flops / 2e11 * (1 + 64 / plan.tokens)


def run(
    config: Config, clock: Clock, each: float, first: int = 0
) -> Iterator[tuple[float, float | None]]:
    """Train on the clock; yield the time so far and the time left that is said, at every step."""
    schedule = config.schedule()
    left, began, trained = TimeLeft({"run": Rest(config, schedule)}), clock.now, 0.0
    for counters, plan in list(steps(schedule))[first:]:
        seconds = seconds_of(config, plan, each) * (1 + 0.2 * (-1) ** counters.step)
        seconds *= 20 if counters.step == first else 1  # what it allocates
        clock.now += seconds
        after = schedule.after(counters, plan)
        trained += seconds
        shape = {"rows": plan.rows, "length": plan.length, "seconds": trained}
        left.learn("run", StepRecord(step=after.step, tokens=after.tokens, loss=1.0, **shape))
        yield clock.now - began, left.seconds()
        clock.now += BESIDE if after.step % EVERY == 0 else 0.0


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    pacing=st.sampled_from(["linear", "root", "doubling"]),
    share=st.integers(5, 90),
    hold=st.sampled_from(["rows", "tokens"]),
    each=st.sampled_from([0.0, 0.001, 0.02]),
)
def test_it_is_within_a_factor_of_one_and_a_half_from_a_tenth_of_the_run_on(
    configured: Configure, clock: Clock, pacing: str, share: int, hold: str, each: float
) -> None:
    changes: dict[str, Any] = {
        "model": {"layers": 4, "width": 128, "length": 512, "vocabulary": 2048},
        "batch": {"hold": hold, "micro_tokens": 4096},
        "budget": {"tokens": 1_000_000},
        "pacing": {"kind": pacing, "duration": f"{share}%", "end": 512},
    }
    config = with_overrides(configured(), changes)
    said = list(run(config, clock, each))
    whole = said[-1][0]
    late = [(whole - so_far, left) for so_far, left in said if 0.1 < so_far / whole < 0.98]
    assert late
    for truth, left in late:
        assert left is not None
        assert truth / 1.5 <= left <= truth * 1.5


def test_the_mean_so_far_would_be_far_off_in_a_warmup(configured: Configure, clock: Clock) -> None:
    changes = {
        "model": {"layers": 4, "width": 128, "length": 512, "vocabulary": 2048},
        "budget": {"tokens": 1_000_000},
    }
    paced = {"pacing": {"duration": "80%", "end": 512}, "batch": {"micro_tokens": 4096}}
    config = with_overrides(configured(), {**changes, **paced})
    said = list(run(config, clock, 0.02))
    done = [plan.tokens for _, plan in steps(config.schedule())]
    whole, tenth = said[-1][0], next(i for i, one in enumerate(said) if one[0] > said[-1][0] / 10)
    so_far = said[tenth][0]
    by_mean = so_far / sum(done[: tenth + 1]) * sum(done[tenth + 1 :])
    assert by_mean > 1.5 * (whole - so_far)


def test_a_resumed_run_counts_from_where_it_is(configured: Configure, clock: Clock) -> None:
    config = with_overrides(configured(), {"model": {"vocabulary": 257}})
    said = list(run(config, clock, 0.01, first=20))
    half = said[len(said) // 2]
    assert half[1] == pytest.approx(said[-1][0] - half[0], rel=0.5)


def test_nothing_is_said_before_a_step_that_counts(configured: Configure, clock: Clock) -> None:
    config = with_overrides(configured(), {"model": {"vocabulary": 257}})
    said = list(run(config, clock, 0.01))
    assert said[0][1] is None
    assert said[1][1] is not None


def test_a_resume_with_another_pacing_counts_from_the_step_where_it_goes_on(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = configured(pacing={"kind": "linear", "start": 8, "duration": 200})
    train(with_overrides(slow, {"budget": {"tokens": 3_000}}), tmp_path / "run", quiet=True)
    changes = {"pacing.kind": "constant", "budget.tokens": 9_000}
    summary = resume(tmp_path / "run", settings=changes)
    assert f", 9,000 tokens, {summary.steps} steps\n" in capsys.readouterr().err
    first = read_metrics(tmp_path / "run").steps[37]
    vocabulary = {"vocabulary": 257}
    whole = configured(pacing={"kind": "constant"}, budget={"tokens": 9_000}, model=vocabulary)
    rest = Rest(whole, whole.schedule(), Counters(first.step, first.tokens or 0))
    assert rest.after(None)[0] == rest.after(first)[0] == summary.steps - first.step


def test_a_finished_run_has_no_steps_to_come(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = train(configured(budget={"tokens": 500}), tmp_path / "run", quiet=True).steps
    resume(tmp_path / "run")
    assert f", 500 tokens, {steps} steps\n" in capsys.readouterr().err
