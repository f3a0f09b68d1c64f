"""A trial lies where its configuration says, and goes on from its newest checkpoint."""

from pathlib import Path

import pytest

from lengthen.experiments.tune import trials
from lengthen.experiments.tune.problem import Problem
from lengthen.experiments.tune.search import Setting, Space
from lengthen.experiments.tune.trials import repeated_tokens, trial_of
from tests.experiments.tune.conftest import ROOM, Asked, Tuned, plant


def test_trials_lie_apart_where_their_configurations_differ_in_anything(
    asked: Asked, tmp_path: Path
) -> None:
    setting = Setting(8, 4)
    names = {
        trial_of(problem, setting).name
        for problem in (
            asked(),
            asked(optimizer={"learning_rate": 2e-2}),
            asked(run={"seed": 1}),
            asked(model={"width": 32}),
        )
    }
    assert len(names) == 4
    assert all(name.startswith("start-8-T-16-") for name in names)
    bolder = trial_of(asked(), Setting(8, 4, rate=2, rows=4)).name
    assert bolder.startswith("start-8-T-16-rate-x2-rows-x4-")
    moved = asked().config.data.model_copy(update={"path": str(tmp_path)})
    problem = asked()
    there = Problem(problem.config.model_copy(update={"data": moved}), 10_000, 512, Space((8,)))
    assert trial_of(there, setting).name == trial_of(problem, setting).name


def test_trials_by_another_version_lie_apart(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, setting = asked(), Setting(8, 4)
    before = trial_of(problem, setting).name
    assert trial_of(problem, setting).name == before
    monkeypatch.setattr(trials, "version", lambda name: f"{name} of another year")
    assert trial_of(problem, setting).name != before


@pytest.mark.parametrize(("saved", "tokens"), [(None, 2 * 64), (1, 64), (2, 0)])
def test_what_is_trained_again_is_all_after_the_newest_checkpoint(
    tuned: Tuned, saved: int | None, tokens: int
) -> None:
    trial = trial_of(tuned.asked(**ROOM), Setting(8, 64))
    plant(tuned.root, trial, calm=False)  # two steps of 8 rows of 8, an evaluation behind each
    if saved is not None:
        (trial.directory(tuned.root) / f"checkpoints/step-{saved:08}").mkdir(parents=True)
    assert repeated_tokens(tuned.root, trial) == tokens
