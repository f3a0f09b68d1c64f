"""What a search will cost is what its trials will do, over every way in which they can end."""

import random
import re
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthen.experiments import runner
from lengthen.experiments.runner import Process
from lengthen.experiments.tune.cost import (
    KnownLoss,
    Range,
    chosen_or_likely,
    estimate,
    training_flops,
    trial_flops,
    ways,
    whole_training,
)
from lengthen.experiments.tune.search import (
    FIRST,
    MULTIPLES,
    End,
    Losses,
    Setting,
    Space,
    next_settings,
    next_step,
    possible_losses,
)
from lengthen.experiments.tune.trials import read_trial, trial_of
from lengthen.planning.plan import plan
from lengthen.util.errors import StorageError
from tests.experiments.tune.conftest import Asked, Tuned, plant

LADDER = [multiple for multiple in MULTIPLES if multiple >= FIRST]
SPACES = st.builds(
    Space,
    starts=st.sampled_from([(8,), (8, 16), (8, 32), (8, 16, 64), (8, 12, 48)]),
    aggressive=st.booleans(),
    fits=st.sampled_from([1, 13, 64]).map(lambda most: lambda s: s.multiple * s.rows <= most),
)
TRIED = st.dictionaries(
    st.builds(
        Setting,
        start=st.sampled_from([8, 16, 48, 64]),
        multiple=st.sampled_from(LADDER),
        rate=st.sampled_from([1, 2]),
        opening=st.booleans(),
        raced=st.booleans(),
    ),
    st.sampled_from([4.0, 4.05, 5.0, inf]),
    max_size=8,
)


def price(setting: Setting) -> float:
    """Return a price that belongs to one setting alone, in whole numbers, which add exactly."""
    place = (setting.start, LADDER.index(max(setting.multiple, FIRST)), setting.rows)
    return float(hash((*place, setting.rate, setting.opening, setting.raced)) % 1000)


def one_by_one(
    space: Space, outcome: KnownLoss, known: Losses, spent: float = 0.0
) -> Iterator[tuple[Setting, float]]:
    """Go every way to its end; yield what was chosen there and what it cost."""
    step = next_step(space, known)
    if isinstance(step, End):
        choice = chosen_or_likely(space, step)
        yield Setting(choice.start, choice.multiple), spent
        return
    tried = outcome(step)
    for loss in possible_losses(known) if tried is None else (tried,):
        cost = price(step) if tried is None else 0.0
        yield from one_by_one(space, outcome, {**known, step: loss}, spent + cost)


@settings(max_examples=30)
@given(space=SPACES, tried=TRIED)
def test_the_bounds_are_those_of_all_ways_gone_one_by_one(
    space: Space, tried: Mapping[Setting, float]
) -> None:
    expected: dict[Setting, list[float]] = {}
    for choice, spent in one_by_one(space, tried.get, {}):
        expected.setdefault(choice, []).append(spent)
    found = ways(space, price, tried.get)
    assert found == {choice: Range(min(all_), max(all_)) for choice, all_ in expected.items()}


@given(space=SPACES, seed=st.integers(0, 10**6), jobs=st.integers(1, 4), done=st.integers(0, 9))
def test_however_an_interrupted_search_goes_on_its_choice_and_cost_are_within_the_bounds(
    space: Space, seed: int, jobs: int, done: int
) -> None:
    def loss(setting: Setting) -> float:
        return random.Random(f"{seed} {setting}").choice([4.0, 4.05, 4.12, 5.0, 5.0, inf])

    chance, known = random.Random(seed), dict[Setting, float]()
    for _ in range(done):
        if wanted := next_settings(space, known, jobs):
            ended = chance.choice(wanted)
            known[ended] = loss(ended)
    found = ways(space, price, known.get)
    spent = 0.0
    while isinstance(step := next_step(space, known), Setting):
        known[step], spent = loss(step), spent + price(step)
    choice = chosen_or_likely(space, step)
    bounds = found[Setting(choice.start, choice.multiple)]
    assert bounds.least <= spent <= bounds.most


def test_a_longer_start_that_has_raced_already_may_still_lose_to_the_shorter_one() -> None:
    tried = {Setting(8, 64): 5.0, Setting(32, 64, raced=True): 3.0}
    found = ways(Space((8, 32)), lambda _: 1.0, tried.get)
    # Its own race is all; or it loses that, and then the winner is not calm.
    assert found[Setting(8, 64)] == Range(1.0, 2.0)
    assert found[Setting(32, 64)] == Range(2.0, 2.0)


def test_many_starts_and_doublings_are_no_explosion(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(space: Space, known: Losses) -> Setting | End:
        calls.append(known)
        return next_step(space, known)

    monkeypatch.setattr("lengthen.experiments.tune.cost.next_step", counted)
    space = Space(tuple(range(8, 168, 8)), aggressive=True)
    assert len(ways(space, price, lambda _: None)) == 20 * len(LADDER) + 3
    assert len(calls) < 20_000


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


def test_what_is_known_costs_nothing_more(asked: Asked) -> None:
    problem = asked(budget={"tokens": 100_000})
    assert estimate(problem, lambda _: 5.0) == Range(0.0, 0.0)
    calm = (Setting(8, 4, opening=True), Setting(8, 13), Setting(8, 29))
    done = {Setting(8, 64): inf, **dict.fromkeys(calm, 5.0)}
    last = trial_flops(problem, Setting(8, 43))
    assert estimate(problem, done.get) == Range(
        last / training_flops(problem, Setting(8, 29)),
        last / training_flops(problem, Setting(8, 43)),
    )


def test_what_the_search_will_cost_is_said_before_its_first_trial_and_holds(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(*_: object) -> Process:
        raise StorageError("no room for a trial")

    monkeypatch.setattr(runner, "start", no_room)
    assert tuned.again() == StorageError.exit_code
    (told,) = capsys.readouterr().out.splitlines()
    pattern = (
        r"cost    from (\S+) to (\S+) % of one training's FLOP, evaluation included, with every "
        r"trial run to its end"
    )
    said = re.fullmatch(pattern, told)
    assert said is not None
    least, most = map(float, said.groups())
    tuned([Setting(8, 64)])
    assert least <= round(100 * tuned.facts["share"]["flops"], 1) <= most
    assert "cost    " not in capsys.readouterr().out  # nothing was left to do
    assert tuned.again("--aggressive") == StorageError.exit_code
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("cost    from ")


def test_trials_side_by_side_are_said_to_cost_more(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuned.again("--jobs", "2") == 1  # at its first trial, which must not start here
    (told,) = capsys.readouterr().out.splitlines()
    assert told.endswith("with every trial run to its end, and more with trials side by side")
