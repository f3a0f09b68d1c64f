"""Calibration: machines whose seconds are known by a formula are estimated rightly, and in time."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from lengthen.config.model import Model
from lengthen.config.schema import Config
from lengthen.data.stream import Step, accumulation_steps
from lengthen.model import cost
from lengthen.run.records import StepRecord
from lengthen.training import calibrate
from lengthen.training.calibrate import (
    REPEATS,
    SHAPES,
    GivenSpeed,
    MeasuredSpeed,
    StepShape,
    given_speed,
    measure_speed,
    shapes_to_try,
    speed_from,
)
from lengthen.training.trainer import Trainer
from lengthen.util.errors import SettingError
from tests.conftest import Configure

MODEL = Model(layers=4, width=64, heads=4, length=256, vocabulary=2048)
MICRO = 4096
# What a linear pacing has, then what one has that holds its tokens, then one of rows.
HELD_ROWS = [(32, length) for length in range(16, 257, 8)]
HELD_TOKENS = [(8192 // length, length) for length in range(8, 257, 8)]
PACED_ROWS = [(rows, 256) for rows in range(1, 65)]


@dataclass
class Machine:
    """Known seconds of a step: update + micro-batches * (each + rows, tokens, tokens * length).

    It counts the time that it was asked for.
    """

    update: float = 0.01
    each: float = 0.005  # of a micro-batch
    per_row: float = 2e-5
    per_token: float = 1e-4
    per_pair: float = 2e-7  # tokens * length
    spent: float = 0.0
    asked: list[StepShape] = field(default_factory=list)

    def step(self, rows: int, length: int, micro_tokens: int = MICRO) -> float:
        count, tokens = accumulation_steps(rows, 1, length, micro_tokens), rows * length
        per_pass = count * self.each + self.per_row * rows
        seconds = self.update + per_pass + tokens * (self.per_token + self.per_pair * length)
        self.spent += seconds
        self.asked.append((rows, length))
        return seconds


def speed_of(machine: Machine, shapes: list[StepShape], limit: float = 20.0) -> MeasuredSpeed:
    return speed_from(MODEL, MICRO, shapes_to_try(shapes, MICRO), machine.step, limit)


@pytest.mark.parametrize("shapes", [HELD_ROWS, HELD_TOKENS, PACED_ROWS])
@drawn(
    update=st.floats(0, 0.5),
    each=st.floats(0, 0.05),
    per_token=st.floats(1e-5, 1e-3),
    per_pair=st.floats(0, 1e-6),
)
def test_a_known_machine_is_estimated_within_a_tenth(
    shapes: list[StepShape], update: float, each: float, per_token: float, per_pair: float
) -> None:
    machine = Machine(update, each, per_row=0.0, per_token=per_token, per_pair=per_pair)
    speed = speed_of(machine, shapes)
    estimated = sum(speed.seconds(*shape) for shape in shapes)
    true = sum(machine.step(*shape) for shape in shapes)
    assert estimated == pytest.approx(true, rel=0.1)


def test_a_shape_that_was_tried_whole_is_estimated_exactly() -> None:
    machine = Machine()
    speed = speed_of(machine, HELD_ROWS)
    for shape in (HELD_ROWS[0], HELD_ROWS[-1]):
        assert speed.seconds(*shape) == pytest.approx(machine.step(*shape))


def test_the_smallest_and_the_largest_micro_batches_are_tried_and_a_few_between() -> None:
    chosen = shapes_to_try(HELD_ROWS, MICRO)
    assert chosen[0] == (32, 16)
    assert accumulation_steps(*chosen[-1][:1], 1, chosen[-1][1], MICRO) * MICRO == 32 * 256
    assert len(chosen) == SHAPES
    assert shapes_to_try([(8, 64)], MICRO) == [(8, 64)]


@pytest.mark.parametrize("slowness", [1, 30, 200])
def test_the_time_is_kept(slowness: int) -> None:
    machine = Machine(per_token=1e-5 * slowness)
    speed_of(machine, [(512, length) for length in range(16, 257, 8)], limit=20.0)
    assert machine.spent < (25 if slowness < 200 else 50)  # a micro-batch of 8 seconds, once each
    assert len(machine.asked) <= (SHAPES + 1) * (REPEATS + 1)


def test_of_a_long_step_a_few_micro_batches_are_tried() -> None:
    machine = Machine(per_token=5e-4)
    speed = speed_of(machine, [(512, 256)])
    tried = max(rows for rows, _ in machine.asked)
    assert 16 <= tried < 512  # 16 rows are one micro-batch
    assert speed.seconds(512, 256) == pytest.approx(Machine(per_token=5e-4).step(512, 256), rel=0.1)


def tiny(configured: Configure, **tables: dict[str, object]) -> Config:
    return configured(data={"path": None}, model={"vocabulary": 257}, **tables)


def test_given_speeds_are_taken_as_they_are(configured: Configure) -> None:
    config = tiny(configured)
    speed = given_speed(config, "100T")
    assert speed.seconds(32, 64) == cost.flops(config.model, 32, 64) / 1e14
    assert speed.source == "as given"
    again = given_speed(tiny(configured, run={"recompute": True}), "100T")
    assert again.seconds(32, 64) == cost.flops(config.model, 32, 64, recompute=True) / 1e14


@pytest.mark.parametrize("given", ["fast", "0", "-3", "1.5"])
def test_a_speed_that_is_none_is_refused(configured: Configure, given: str) -> None:
    with pytest.raises(SettingError, match=r"--flops: must be"):
        given_speed(tiny(configured), given)


def test_the_steps_are_the_trainers_own_and_nothing_is_written(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[StepShape] = []
    train_on = Trainer.train_on

    def watched(trainer: Trainer, step: Step, micro_tokens: int | None) -> StepRecord:
        record = train_on(trainer, step, micro_tokens)
        assert record.lr == 0.0
        seen.append((record.rows or 0, record.length or 0))
        return record

    monkeypatch.setattr(Trainer, "train_on", watched)
    # However busy this machine is, there is time for whole steps of all shapes.
    speed = measure_speed(tiny(configured), 256, [(8, 8), (8, 64), (3, 64)], limit=60.0)
    assert isinstance(speed, MeasuredSpeed)
    assert {(1, 1), (5, 1), (8, 8), (8, 64), (3, 64)} <= set(seen)
    assert speed.seconds(8, 8) > 0
    assert speed.seconds(8, 64) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pacing", "batch"),
    [
        ({"of": "rows", "start": 1, "multiple": 1, "end": 8}, {}),
        ({"kind": "adaptive"}, {"hold": "tokens"}),
        ({"kind": "constant"}, {"leftovers": "drop"}),
        ({"kind": "doubling"}, {"hold": "tokens", "leftovers": "in_place"}),
    ],
)
def test_every_kind_of_configuration_can_be_tried(
    configured: Configure, pacing: dict[str, object], batch: dict[str, object]
) -> None:
    config = tiny(configured, pacing=pacing, batch=batch, budget={"tokens": 10_000})
    speed = measure_speed(config, 256, [(12, 8), (4, 64)], limit=0.2)
    assert speed.seconds(4, 64) > 0


@pytest.mark.parametrize(
    ("peak", "shapes", "source"),
    [
        (1e9, 4, "steps of 4 shapes tried here"),
        (1.4e8, 3, "steps of 3 shapes tried here"),
        (8e7, 3, "steps of 3 shapes tried here, in micro-batches of 128 tokens"),
        (1e7, 0, "70% of the matrix products here: too slow to be tried"),
    ],
)
def test_a_slow_machine_tries_fewer_shapes_then_smaller_micro_batches_then_none(
    configured: Configure, monkeypatch: pytest.MonkeyPatch, peak: float, shapes: int, source: str
) -> None:
    monkeypatch.setattr(calibrate, "_matrix_product_peak", lambda _: peak)
    monkeypatch.setattr(calibrate, "real_steps", lambda *_: Machine().step)
    speed = measure_speed(tiny(configured), 256, [(8, n) for n in (8, 16, 32, 64)], limit=1.0)
    assert speed.source == source
    if isinstance(speed, MeasuredSpeed):
        assert len(speed.tried) == shapes
        assert speed.micro_tokens == 256  # the run's, whatever was tried


def test_in_double_precision_a_model_is_too_large_at_half_the_size(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(configured, run={"precision": "fp64"})
    limit = int(1.5 * cost.memory(config.model, 256))
    monkeypatch.setattr(calibrate, "memory_limit", lambda device: limit)
    monkeypatch.setattr(calibrate, "_matrix_product_peak", lambda _: 1e9)
    monkeypatch.setattr(calibrate, "real_steps", lambda *_: Machine().step)
    assert "too large to be tried" in measure_speed(config, 256, [(8, 64)], limit=1.0).source
    single = tiny(configured)
    assert "tried here" in measure_speed(single, 256, [(8, 64)], limit=1.0).source


@pytest.mark.parametrize(
    ("layers", "width", "reason"), [(4, 64, "too slow"), (96, 12288, "too large")]
)
def test_a_model_that_is_too_much_is_not_even_built(
    configured: Configure, monkeypatch: pytest.MonkeyPatch, layers: int, width: int, reason: str
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("it was built")

    monkeypatch.setattr(calibrate, "Trainer", refused)
    monkeypatch.setattr(calibrate, "_matrix_product_peak", lambda _: 1e9)
    config = tiny(configured, budget={"tokens": 10_000})
    model = config.model.model_copy(update={"layers": layers, "width": width})
    config = config.model_copy(update={"model": model})
    speed = measure_speed(config, 256, [(8, 64)], limit=0.01)
    assert isinstance(speed, GivenSpeed)
    assert speed.source == f"70% of the matrix products here: {reason} to be tried"
    assert speed.flops_per_second == pytest.approx(0.7e9)
