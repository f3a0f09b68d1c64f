"""What a search will cost is what its trials will do, and never more than the bound."""

import random
import re
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.experiments import runner
from lengthen.experiments.runner import Process
from lengthen.experiments.tune.cost import (
    estimate,
    most_by_start,
    training_flops,
    trial_flops,
    whole_training,
)
from lengthen.experiments.tune.search import Setting, Space, next_step
from lengthen.experiments.tune.trials import read_trial, trial_of
from lengthen.planning.plan import plan
from lengthen.util.errors import StorageError
from tests.experiments.tune.conftest import Asked, Tuned, plant

SPACES = st.builds(
    Space,
    starts=st.sampled_from([(8,), (8, 16), (8, 32), (8, 16, 64), (8, 12, 48)]),
    aggressive=st.booleans(),
    fits=st.sampled_from([1, 13, 64]).map(lambda most: lambda s: s.multiple * s.rows <= most),
)


def price(setting: Setting) -> float:
    """Return a price that belongs to one setting alone, whatever its rate."""
    place = (setting.start, setting.multiple, setting.rows, setting.opening, setting.raced)
    return float(hash(place) % 1000)


@given(space=SPACES, seed=st.integers(0, 10**6), calm=st.sampled_from([0.1, 0.5, 0.9]))
def test_however_its_trials_end_a_search_spends_no_more_than_the_bound(
    space: Space, seed: int, calm: float
) -> None:
    def loss(setting: Setting) -> float:
        chance = random.Random(f"{seed} {setting}")
        return chance.choice([4.0, 4.05, 4.12, 5.0]) if chance.random() < calm else inf

    known: dict[Setting, float] = {}
    while isinstance(step := next_step(space, known), Setting):
        known[step] = loss(step)
    assert sum(map(price, known)) <= max(most_by_start(space, price).values())


@pytest.mark.parametrize("recompute", [False, True])
def test_a_trial_and_a_training_cost_what_was_foretold(
    asked: Asked, tmp_path: Path, recompute: bool
) -> None:
    problem = asked(run={"recompute": recompute}, budget={"tokens": 450_000})
    for setting in (
        Setting(8, 4, opening=True),
        Setting(16, 13),
        Setting(8, 6, rate=2, rows=4),
        Setting(8, 13, raced=True),
    ):
        trial = trial_of(problem, setting)
        plant(tmp_path, trial, calm=True)
        assert trial_flops(problem, setting) == pytest.approx(
            read_trial(tmp_path, trial).work.flops
        )
        whole = plan(whole_training(problem, setting), 64)
        assert training_flops(problem, setting) == pytest.approx(whole.flops)
        assert whole.schedule.rows == 8


def test_layers_worked_out_again_count_in_trials_as_in_the_training_and_not_in_evaluations(
    asked: Asked,
) -> None:
    setting, room = Setting(8, 64), {"tokens": 100_000}
    plain, again = (asked(run={"recompute": recompute}, budget=room) for recompute in (False, True))
    more = training_flops(again, setting) / training_flops(plain, setting)
    assert more > 1.05
    assert 1 < trial_flops(again, setting) / trial_flops(plain, setting) < more


def test_likely_is_a_search_whose_first_start_is_calm_but_with_the_longest_duration(
    asked: Asked,
) -> None:
    problem = asked(budget={"tokens": 100_000})
    ladder = [Setting(8, 64), Setting(8, 4, opening=True), Setting(8, 13), Setting(8, 29)]
    spent = sum(trial_flops(problem, one) for one in (*ladder, Setting(8, 43)))
    likely = spent / training_flops(problem, Setting(8, 43))
    assert estimate(problem).likely == pytest.approx(likely)


def test_what_the_search_will_cost_is_said_before_its_first_trial_and_holds(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(*_: object) -> Process:
        raise StorageError("no room for a trial")

    monkeypatch.setattr(runner, "start", no_room)
    assert tuned.again() == StorageError.exit_code
    told, *_ = capsys.readouterr().err.splitlines()
    pattern = (
        r"lengthen: cost: likely (\S+), at most (\S+) % of one training's FLOP, evaluation "
        r"included, less what is known already"
    )
    shown = re.fullmatch(pattern, told)
    assert shown is not None
    likely, most = map(float, shown.groups())
    tuned([Setting(8, 64)])
    assert round(100 * tuned.facts["share"]["flops"], 1) <= most
    assert likely <= most


def test_trials_side_by_side_are_said_to_cost_more(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuned.again("--jobs", "2") == 1  # at its first trial, which must not start here
    told, *_ = capsys.readouterr().err.splitlines()
    assert told.endswith("less what is known already, more with trials side by side")
