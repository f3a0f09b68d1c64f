"""Seconds that are tried on a GPU, and passes that are foretold for it."""

import pytest
import torch

from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.memory import CPU_MICRO_TOKENS, auto_micro_tokens
from lengthen.training.calibrate import MeasuredSpeed, measure_speed
from tests.conftest import Configure

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_are_tried_there(on_device: Configure, precision: str) -> None:
    config = on_device(run={"precision": precision})
    config = with_store(config, open_store(config))
    speed = measure_speed(config, 512, [(8, 8), (8, 64)], limit=4.0)
    assert isinstance(speed, MeasuredSpeed)
    assert 0 < speed.seconds(8, 64) < 4.0


def test_a_plan_of_a_tiny_model_takes_the_whole_step_as_one_pass(
    on_device: Configure, device: torch.device
) -> None:
    config = on_device(batch={"micro_tokens": "auto", "rows": 128})
    config = with_store(config, open_store(config))
    assert auto_micro_tokens(config) == (128 * 64 if device.type == "cuda" else CPU_MICRO_TOKENS)
