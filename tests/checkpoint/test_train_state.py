"""What a state.json may say: the state of this run, or a refusal in one line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.train_state import TrainState, check_same_run, log_size
from lengthen.checkpoint.verify import list_checkpoints
from lengthen.checkpoint.write import write_checkpoint
from lengthen.training.start import resume, train
from lengthen.util.disk import Disk
from lengthen.util.errors import CheckpointError
from tests.conftest import Configure, trainer_of
from tests.fuzz.test_safetensors import seal_anew


@pytest.fixture(scope="module")
def state(configured: Configure) -> dict[str, Any]:
    trainer = trainer_of(configured())
    for _ in range(3):
        trainer.step()
    state: dict[str, Any] = json.loads(json.dumps({**trainer.state_dict(), "metrics_bytes": 10}))
    return state


def test_a_state_comes_back_as_it_was(state: dict[str, Any]) -> None:
    assert json.loads(json.dumps(TrainState.from_state(state).state())).items() <= state.items()


ODD: list[Any] = [None, "7", -1, 1.5, True, [], {}, 10**30, float("nan"), float("inf")]
PLACES = [
    ("counters",),
    ("counters", "step"),
    ("counters", "tokens"),
    ("counters", "adaptive"),
    ("evaluated", "origin"),
    ("ledger",),
    ("ledger", "queue"),
    ("seconds",),
    ("skipped_tokens",),
    ("probed",),
    ("lowest",),
]
# What a run may well write in that place.
SOUND: dict[str, list[Any]] = {
    "seconds": [1.5, 10**30],
    "lowest": [None, 1.5, 10**30],
    "adaptive": [None],
    "queue": [[], {}],
}


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_a_value_that_no_run_writes_is_refused(
    state: dict[str, Any], place: tuple[str, ...]
) -> None:
    for odd in ODD:
        if any(odd is sound or odd == sound for sound in SOUND.get(place[-1], [])):
            continue
        spoiled = copy.deepcopy(state)
        inner = spoiled
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = odd
        with pytest.raises(CheckpointError, match="state") as caught:
            TrainState.from_state(spoiled)
        assert str(caught.value).isprintable()
        del inner[place[-1]]
        with pytest.raises(CheckpointError, match="state"):
            TrainState.from_state(spoiled)


def test_a_state_of_another_run_is_refused(configured: Configure, state: dict[str, Any]) -> None:
    progress = TrainState.from_state(state)
    check_same_run(progress, trainer_of(configured()).train_state.ledger)
    for tables in ({"model": {"length": 32}}, {"batch": {"leftovers": "drop"}}):
        other = trainer_of(configured(**tables)).train_state.ledger
        with pytest.raises(CheckpointError, match="of another run"):
            check_same_run(progress, other)


@pytest.mark.parametrize("size", [None, "7", -1, 1.5, True])
def test_a_state_without_the_size_of_its_log_is_refused(size: object) -> None:
    with pytest.raises(CheckpointError, match=r"no size of metrics\.jsonl"):
        log_size({"metrics_bytes": size})


@pytest.mark.parametrize("data", [b"[]", b"null", b"{", b"[" * 10**5, b"\xff", b"9" * 5000])
def test_a_sealed_state_that_is_no_object_is_refused(
    configured: Configure, tmp_path: Path, data: bytes
) -> None:
    run = tmp_path / "run"
    train(configured(budget={"tokens": 200}), run, quiet=True)
    for path in list_checkpoints(run / "checkpoints"):
        (path / "state.json").write_bytes(data)
        seal_anew(path)
    with pytest.raises(CheckpointError, match=r"state\.json is no JSON object"):
        resume(run, quiet=True)


def test_moments_of_another_shape_are_refused(configured: Configure, tmp_path: Path) -> None:
    trainer = trainer_of(configured())
    trainer.step()
    groups = {name: dict(tensors) for name, tensors in trainer.tensors().items()}
    name = next(n for n in groups["optimizer"] if n.endswith("exp_avg"))
    groups["optimizer"][name] = groups["optimizer"][name].flatten()[:3]
    write_checkpoint(Disk(), tmp_path, 1, groups, trainer.state_dict())
    with pytest.raises(CheckpointError, match=rf"has {name} of shape \(3,\)"):
        trainer.restore(checkpoint.load_newest(tmp_path)[0])
