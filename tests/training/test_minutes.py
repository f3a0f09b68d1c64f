"""A budget in minutes: steps tried at the start of training say how many tokens it is."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lengthen.config.load import load, with_overrides
from lengthen.config.schema import Config
from lengthen.core.schedule import spans
from lengthen.experiments.compare.file import comparison_of
from lengthen.experiments.tune.tune import tune
from lengthen.model import cost
from lengthen.training import minutes as minutes_module
from lengthen.training.calibrate import GivenSpeed
from lengthen.training.minutes import in_tokens
from lengthen.training.start import resume, train
from lengthen.util.errors import SettingError, StoppedError
from lengthen.util.signals import StopSignal
from tests.conftest import Configure

SECONDS_PER_STEP = 0.01


class Speed(GivenSpeed):
    """Every step takes a while besides its arithmetic, as real ones do."""

    def seconds(self, rows: int, length: int) -> float:
        return SECONDS_PER_STEP + cost.flops(self.model, rows, length) / self.flops_per_second


def speed_of(config: Config) -> Speed:
    model = config.model.model_copy(update={"vocabulary": 257})
    return Speed(model, 1e9, "planted")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have steps take the planted seconds, where a run would try them."""
    monkeypatch.setattr(minutes_module, "measure_speed", lambda config, *_: speed_of(config))


def training_minutes(config: Config) -> float:
    speed, parts = speed_of(config), spans(config.schedule())
    return sum(one.steps * speed.seconds(one.rows, one.length) for one in parts) / 60


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    minutes=st.floats(0.01, 3),
    duration=st.integers(0, 2000) | st.integers(1, 90).map(lambda share: f"{share}%"),
    hold=st.sampled_from(["rows", "tokens"]),
    kind=st.sampled_from(["linear", "root", "doubling"]),
)
def test_they_are_the_most_whole_steps_that_the_minutes_have_time_for_with_a_warmup_by_its_lengths(
    configured: Configure, minutes: float, duration: Any, hold: str, kind: str
) -> None:
    config = with_overrides(
        configured(batch={"hold": hold}),
        {"budget": {"minutes": minutes}, "pacing": {"kind": kind, "duration": duration}},
    )
    found = in_tokens(config, 256, speed=speed_of(config))
    tokens = found.budget.tokens
    assert tokens is not None
    assert tokens % (8 * 64) == 0
    longer = with_overrides(config, {"budget": {"tokens": tokens + 8 * 64}})
    assert training_minutes(found) <= minutes < training_minutes(longer)


def test_minutes_too_short_for_one_step_are_refused_in_a_line(configured: Configure) -> None:
    config = with_overrides(configured(), {"budget": {"minutes": 1e-5}})
    with pytest.raises(SettingError, match="budget.minutes: must be enough for one step at full"):
        in_tokens(config, 256, speed=speed_of(config))


def test_a_decay_has_room_in_the_whole_run_if_not_in_the_first_steps_that_are_tried(
    configured: Configure,
) -> None:
    wsd = {"schedule": "wsd", "wsd_decay_tokens": 8 * 8 * 64}
    config = with_overrides(configured(optimizer=wsd), {"budget": {"minutes": 0.1}})
    found = in_tokens(config, 256, speed=speed_of(config)).schedule()
    assert found.budget - found.decay_start == 8 * 8 * 64
    longer = with_overrides(config, {"optimizer": {"wsd_decay_tokens": found.budget + 1}})
    with pytest.raises(SettingError, match=r"wsd_decay_tokens: must not exceed .* the budget \("):
        in_tokens(longer, 256, speed=speed_of(config))


SHORT = {"budget.minutes": 0.05, "pacing.duration": "30%", "saving.every_steps": 5}


@pytest.mark.usefixtures("planted")
def test_a_run_records_them_as_tokens_and_continues_with_these(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, run = configured(evaluation={"every_steps": 0}), tmp_path / "run"
    whole = train(given, tmp_path / "whole", settings=SHORT, quiet=True)
    recorded = load(str(tmp_path / "whole" / "config.toml"))[0]
    assert recorded.budget.tokens == recorded.optimizer.decay_tokens == whole.tokens
    assert recorded.budget.minutes is None
    assert isinstance(recorded.tables()["pacing"]["duration"], int)
    with monkeypatch.context() as context:
        context.setattr(StopSignal, "__call__", lambda _: True)
        with pytest.raises(StoppedError):
            train(given, run, settings=SHORT, quiet=True)
    # Another process would measure another speed; the run has its tokens.
    monkeypatch.setattr(minutes_module, "measure_speed", lambda *_: pytest.fail("measured again"))
    again = train(given, run, settings=SHORT, resume="auto", quiet=True)
    assert (again.tokens, again.validation_loss) == (whole.tokens, whole.validation_loss)
    # With more tokens it keeps the decay and the warmup that those of the minutes gave.
    more = resume(run, settings={"budget.tokens": 2 * whole.tokens}, quiet=True).steps
    assert train(given, run, settings=SHORT, resume="auto", quiet=True).steps == more
    other = {**SHORT, "optimizer.decay_tokens": 9_999}
    with pytest.raises(SettingError, match="decay_tokens: --resume auto found a run with"):
        train(given, run, settings=other, resume="auto", quiet=True)


def test_real_steps_are_tried_where_nobody_says_how_fast_they_are(
    configured: Configure, tmp_path: Path
) -> None:
    summary = train(configured(), tmp_path / "run", settings={"budget.minutes": 0.01}, quiet=True)
    assert summary.tokens >= 8 * 64


@pytest.mark.usefixtures("planted")
def test_minutes_are_refused_where_runs_need_tokens_that_are_known(
    configured: Configure, tmp_path: Path, store: Path
) -> None:
    train(configured(), tmp_path / "run", quiet=True)
    with pytest.raises(SettingError, match=r"budget\.minutes: is known in tokens only once"):
        resume(tmp_path / "run", settings={"budget.minutes": 1}, quiet=True)
    minute = {"budget.minutes": 1}
    with pytest.raises(SettingError, match=r"budget\.minutes: is known in tokens only once"):
        tune(configured(), tmp_path / "tuned", settings=minute, judge_tokens=512, quiet=True)
    variants = {"one": {"pacing": {"kind": "constant"}}, "two": {}}
    file = {"recipe": "laptop-2min", "variants": variants, "budget": {"minutes": 1}}
    with pytest.raises(SettingError, match=r"budget\.minutes: would give every run its own tokens"):
        comparison_of(file, "comparison", {})


def test_one_of_three_budgets_is_given(configured: Configure) -> None:
    with pytest.raises(SettingError, match="give budget.tokens, budget.epochs or budget.minutes"):
        configured(budget={"tokens": 10, "minutes": 1})
