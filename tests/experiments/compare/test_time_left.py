"""What a comparison costs, said before it, and the time left while its runs go side by side."""

import time
from pathlib import Path

import pytest

from lengthen.core.schedule import StepPlan, steps
from lengthen.data.open_store import with_store
from lengthen.data.store import Store
from lengthen.experiments.compare import run as module
from lengthen.experiments.compare.file import read_comparison
from lengthen.experiments.compare.run import carry_out
from lengthen.experiments.runner import Job
from lengthen.model import cost
from lengthen.run.directory import RunPaths
from lengthen.run.records import StepRecord
from lengthen.training.time_left import Rest, StepSeconds
from lengthen.util.console import clock_time
from tests.experiments.conftest import Written


def test_time_left_is_that_of_all_steps_to_come_over_the_runs_side_by_side(
    written: Written, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, done = 1.0, dict[Path, StepRecord]()
    runs = [run for run in read_comparison(written()).runs if run.seed == 0]
    jobs = [Job(run.name, run.name, tmp_path / run.name, run.config) for run in runs]
    rests, plans, seconds = dict[str, Rest](), dict[str, list[StepPlan]](), dict[str, list[float]]()
    for run in runs:
        config = with_store(run.config, Store.open(store))
        rests[run.name] = Rest(config, config.schedule())
        plans[run.name] = walked = [plan for _, plan in steps(config.schedule())]
        flops = [cost.flops(config.model, plan.rows, plan.length) for plan in walked]
        seconds[run.name] = [0.01 + each / 1e9 for each in flops]
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(module, "last_record", done.get)
    clock = module._Clock(rests, StepSeconds(jobs=2))
    total = sum(len(one) for one in plans.values())
    assert clock.cost(jobs).startswith(f"cost: 2 runs, 2 side by side, {total} steps, ")
    assert clock.left(jobs) == ""
    for count in range(1, 8):
        for job in jobs:
            plan = plans[job.name][count - 1]
            done[RunPaths(job.directory).metrics] = StepRecord(
                step=count,
                tokens=sum(one.tokens for one in plans[job.name][:count]),
                rows=plan.rows,
                length=plan.length,
                seconds=sum(seconds[job.name][:count]),
                loss=1.0,
            )
        now = 1.0 + sum(seconds["slw/seed-0"][1:count])
        clock.look(jobs)
    real = sum(sum(one[7:]) for one in seconds.values()) / 2
    rest_steps, rest_flops = map(sum, zip(*map(clock._rest, jobs), strict=True))
    assert clock.took.of(rest_steps, rest_flops) == pytest.approx(real, rel=0.3)
    assert clock.left(jobs) == f"{clock_time(real)} left"


def test_a_comparison_says_its_cost_before_it_trains(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(**{"seeds = [0, 1, 2]": "seeds = [0]", "tokens = 6000": "tokens = 1500"})
    carry_out(read_comparison(file), tmp_path / "out", jobs=2)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("cost: 2 runs, 2 side by side, ")
    assert first.endswith(" FLOP of training")
    assert rest[0].startswith("1 of 2  ")
