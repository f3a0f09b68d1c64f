"""Memory that really runs out: behind a limit of PyTorch's allocator, or of the system on a CPU."""

import resource
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.config.load import load, with_overrides
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import fit_check
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.fit import choose_micro_tokens, trial_fits
from lengthen.training.start import train
from tests.conftest import Configure
from tests.gpu.conftest import TrainerOn

pytestmark = pytest.mark.gpu

WHOLE = 256 * 64  # tokens of a step, whose micro-batches would take three times the spare memory
SPARE = 120 * 2**20  # bytes
LARGE: dict[str, dict[str, Any]] = {
    "model": {"width": 128, "layers": 2},
    "batch": {"rows": 256, "micro_tokens": WHOLE},
    "pacing": {"kind": "constant"},
    "budget": {"tokens": 40_000},
    "saving": {"every_steps": 0},
}


@contextmanager
def little_memory(device: torch.device) -> Iterator[None]:
    """Leave PyTorch little more memory than it has taken already."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        most = torch.cuda.memory_reserved(device) + SPARE
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(most / total, device)
        yield
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class AtOnce:
    """What reads the next step in place of a thread, before the step that spends the memory."""

    def __init__(self, *_: object) -> None:
        """Start nothing."""

    def submit(self, read: Callable[..., Any], *given: object) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(read(*given))
        return done

    def shutdown(self) -> None:
        """There is nothing to end."""


@pytest.fixture
def little(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train in little memory for the length of a test."""
    torch.zeros(1, device=device)
    if device.type == "cpu":
        # The limit is that of the whole process, and torch.from_numpy ends it where nothing is
        # left: now and then the thread that reads ahead came upon such a moment.
        monkeypatch.setattr("lengthen.training.inputs.ThreadPoolExecutor", AtOnce)
    with little_memory(device):
        yield


@pytest.fixture
def large(on_device: Configure) -> Config:
    """A configuration whose micro-batches do not fit into little memory."""
    return on_device(**LARGE)


def ready(config: Config, device: torch.device) -> tuple[Config, Any, DistributedContext]:
    store = open_store(config)
    config = with_store(config, store)
    return config, store, DistributedContext(device, config.run.precision)


@pytest.mark.usefixtures("little")
def test_f34_the_fit_check_finds_micro_batches_in_which_a_step_fits(
    large: Config, device: torch.device, trainer_on: TrainerOn
) -> None:
    config, store, context = ready(large, device)
    found = fit_check(WHOLE, 64, partial(trial_fits, config, store, context))
    assert 64 <= found < WHOLE
    if device.type == "cuda":  # a processor's come from a formula
        auto = with_overrides(config, {"batch": {"micro_tokens": "auto"}})
        assert choose_micro_tokens(auto, store, context) == found
    trainer = trainer_on(with_overrides(large, {"batch": {"micro_tokens": found}}))
    for _ in range(2):
        assert trainer.step() is not None
    # The C library's heap has gaps, where the allocator of a GPU joins its pages.
    assert (found if device.type == "cuda" else found // 2) <= trainer.micro_tokens <= found


@pytest.mark.usefixtures("little")
def test_f35_a_step_that_does_not_fit_is_done_again_in_smaller_micro_batches(
    large: Config, trainer_on: TrainerOn
) -> None:
    trainer = trainer_on(large)
    record = trainer.step()
    assert record is not None
    assert 64 <= trainer.micro_tokens < WHOLE
    small = trainer_on(with_overrides(large, {"batch": {"micro_tokens": 512}}))
    expected = small.step()
    assert expected is not None
    for name in ("loss", "grad_norm", "variance_norm"):
        assert getattr(record, name) == pytest.approx(getattr(expected, name), rel=1e-4)


@pytest.mark.usefixtures("little")
def test_f35_a_run_says_what_fits_and_continues(large: Config, tmp_path: Path) -> None:
    train(large, tmp_path / "run", quiet=True)
    paths = RunPaths(tmp_path / "run")
    events = read_metrics(paths.metrics).events
    (smaller,) = [event for event in events if event.name == "micro_tokens_lowered"]
    assert smaller.facts["before"] == WHOLE
    assert load(str(paths.config))[0].batch.micro_tokens == smaller.facts["micro_tokens"] < WHOLE
