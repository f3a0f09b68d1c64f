"""What a comparison costs, said before it, and the time left while its runs go side by side."""

import time
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.core.schedule import StepPlan, steps
from lengthen.data.open_store import with_store
from lengthen.data.store import Store
from lengthen.experiments.compare.file import read_comparison
from lengthen.model import cost
from lengthen.run.records import StepRecord
from lengthen.training.time_left import Rest, TimeLeft
from tests.experiments.conftest import Written


def test_time_left_is_that_of_all_steps_to_come_over_the_runs_side_by_side(
    written: Written, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1.0
    rests, plans, seconds = dict[str, Rest](), dict[str, list[StepPlan]](), dict[str, list[float]]()
    for run in (run for run in read_comparison(written()).runs if run.seed == 0):
        config = with_store(run.config, Store.open(store))
        rests[run.name] = Rest(config, config.schedule())
        plans[run.name] = walked = [plan for _, plan in steps(config.schedule())]
        flops = [cost.flops(config.model, plan.rows, plan.length) for plan in walked]
        seconds[run.name] = [0.01 + each / 1e9 for each in flops]
    monkeypatch.setattr(time, "monotonic", lambda: now)
    time_left = TimeLeft(rests, jobs=2)
    assert time_left.work()[0] == sum(len(one) for one in plans.values())
    assert time_left.seconds() is None
    for count in range(1, 8):
        now = 1.0 + sum(seconds["slw/seed-0"][1:count])
        for name, walked in plans.items():
            record = StepRecord(
                step=count,
                tokens=sum(one.tokens for one in walked[:count]),
                rows=walked[count - 1].rows,
                length=walked[count - 1].length,
                seconds=sum(seconds[name][:count]),
                loss=1.0,
            )
            time_left.learn(name, record)
    real = {name: sum(one[7:]) / 2 for name, one in seconds.items()}
    assert time_left.seconds() == pytest.approx(sum(real.values()), rel=0.3)
    time_left.end("baseline/seed-0")
    assert time_left.seconds() == pytest.approx(real["slw/seed-0"], rel=0.3)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("seeds", "end"), [(2, "; for a verdict 3 seeds are needed"), (3, "")])
def test_a_comparison_says_its_cost_and_too_few_seeds_before_it_trains(
    seeds: int, end: str, written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(**{"seeds = [0, 1, 2]": f"seeds = {[*range(seeds)]}"})
    assert main(["compare", str(file), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 0
    precision, compiled, first, *rest = capsys.readouterr().err.splitlines()
    assert precision.startswith('run.precision = "auto" takes ')
    assert compiled.startswith('run.compile = "auto" ')
    assert first.startswith(f"cost: {2 * seeds} runs, 2 side by side, ")
    assert first.endswith(f" FLOP of training{end}")
    assert any(line.startswith(f"1 of {2 * seeds}  ") for line in rest)
