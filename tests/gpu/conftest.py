"""Where the tests marked `gpu` compute: on the first GPU, or where LENGTHEN_TEST_DEVICE says.

LENGTHEN_TEST_DEVICE=cpu runs the same tests on the processor, so that they are known to be sound
before a GPU is at hand.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from lengthen.config.load import merge
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.context import DistributedContext
from lengthen.training.trainer import Trainer
from tests.conftest import Configure

# Read at the first matrix product of the process: equal bits on a GPU need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

TrainerOn = Callable[..., Trainer]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device under test; without one, what asks for it is skipped."""
    name = os.environ.get("LENGTHEN_TEST_DEVICE", "cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no GPU on this machine")
    return torch.device(name)


@pytest.fixture(scope="session")
def on_device(configured: Configure, device: torch.device) -> Configure:
    """Give a tiny configuration that runs on the device, with any tables changed."""

    def tiny(**tables: dict[str, Any]) -> Config:
        return configured(**merge({"run": {"device": device.type}}, tables)[0])

    return tiny


@pytest.fixture(scope="session")
def trainer_on(device: torch.device) -> TrainerOn:
    """Give a trainer of a configuration on the device, or on another one that is named."""

    def trainer(config: Config, where: str = "", *, sharded: bool = False) -> Trainer:
        store = open_store(config)
        config = with_store(config, store)
        size = config.batch.micro_tokens
        assert size != "auto"
        there = torch.device(where) if where else device
        context = DistributedContext(there, config.run.precision, sharded=sharded)
        return Trainer(config, store, context, size)

    return trainer


@pytest.fixture
def same_bits() -> Iterator[None]:
    """Let the GPU compute the same bits each time; by default it does so to rounding alone."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
