"""What a search has cost is what its trials did, and what kills and processes took besides."""

import json
from itertools import accumulate, islice

import pytest

from lengthen.core.schedule import StepPlan, steps
from lengthen.experiments.tune.search import Setting
from lengthen.model import cost
from tests.experiments.tune.conftest import Tuned


def test_the_cost_is_what_the_trials_did_beside_the_whole_training(tuned: Tuned) -> None:
    wildest, *calm = tuned([Setting(8, 43)])
    model = tuned.config.model
    # The first was not calm in its second step.
    shapes = [shape for _, shape in islice(steps(wildest.config.schedule()), 2)]
    shapes += [shape for trial in calm for _, shape in steps(trial.config.schedule())]
    looks = 2 + 8 + 3 * 12  # the opening has two warm-ups of 4 steps, the others three
    training = [shape for _, shape in steps(tuned.config.schedule())]
    judging = looks * cost.flops(model, 2, 64) / 3
    flops = sum(cost.flops(model, s.rows, s.length) for s in shapes) + judging
    whole = sum(cost.flops(model, s.rows, s.length) for s in training)
    told = tuned.facts
    assert told["cost"] == {
        "trials": 5,
        "tokens": sum(shape.tokens for shape in shapes),
        "validation_tokens": looks * 128,
        "flops": pytest.approx(flops),
        "seconds": looks * (0.5 + 0.25),
        "seconds_beside_computing": 0.0,
        "tokens_trained_twice": 0,
    }
    assert told["training"]["steps"] == len(training)
    assert told["training"]["tokens"] == sum(shape.tokens for shape in training)
    assert told["share"]["flops"] == pytest.approx(flops / whole)
    expected = told["cost"]["seconds"] / told["training"]["seconds"]
    assert told["share"]["seconds"] == pytest.approx(expected)


@pytest.mark.parametrize(("start", "per_flop"), [(0.5, 0.0), (0.02, 1e-9), (0.0, 1e-9)])
def test_the_seconds_of_the_whole_training_come_from_a_line_through_those_of_the_steps(
    tuned: Tuned, start: float, per_flop: float
) -> None:
    trials = tuned([Setting(8, 43)])
    model = tuned.config.model

    def took(shape: StepPlan) -> float:
        return start + per_flop * cost.flops(model, shape.rows, shape.length)

    for trial in trials:
        log = trial.directory(tuned.root) / "metrics.jsonl"
        records = [json.loads(line) for line in log.read_text().splitlines()]
        ends = list(accumulate(took(shape) for _, shape in steps(trial.config.schedule())))
        moved = [{**one, "seconds": ends[one["step"] - 1]} for one in records]
        log.write_text("".join(json.dumps(record) + "\n" for record in moved))
    assert tuned.again() == 0
    expected = sum(took(shape) for _, shape in steps(tuned.config.schedule()))
    assert tuned.facts["training"]["seconds"] == pytest.approx(expected)


def test_steps_of_one_length_say_nothing_of_the_seconds_of_the_whole_training(tuned: Tuned) -> None:
    (trial,) = tuned([Setting(8, 64)])
    assert {shape.length for _, shape in steps(trial.config.schedule())} == {8}
    assert tuned.facts["training"]["seconds"] is tuned.facts["share"]["seconds"] is None
    assert any(" seconds." in text for text in tuned.facts["verdicts"])


def test_what_a_kill_cost_and_what_processes_took_beside_computing_is_billed(tuned: Tuned) -> None:
    trials = tuned([Setting(8, 43)])
    before = tuned.facts["cost"]
    lines: list[dict[str, object]] = [
        {"run": trials[0].name, "event": "started", "repeated_tokens": 0},
        {"run": trials[0].name, "event": "started", "repeated_tokens": 640},
        {"run": trials[0].name, "event": "ended", "beside_seconds": 3.0},
        {"run": "another", "event": "started", "repeated_tokens": 640},
    ]
    log = tuned.root / "attempts.jsonl"
    log.write_text("".join(json.dumps({**line, "search": {}}) + "\n" for line in lines))
    assert tuned.again() == 0
    assert tuned.facts["cost"] == {
        **before,
        "seconds": before["seconds"] + 3.0,
        "seconds_beside_computing": 3.0,
        "tokens_trained_twice": 640,
    }
    line = next(text for text in tuned.facts["verdicts"] if " trials cost " in text)
    assert line.endswith(
        ", 3 of them to start, save and watch processes; besides, 640 tokens were trained twice, "
        "after a kill."
    )
