"""In a loop of Accelerate: our own trainer's rows, losses and weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from lengthen.cli.main import main
from lengthen.integrations.accelerate import LengthenLoader
from lengthen.reporting.gather import gather
from lengthen.run.metrics import read_metrics
from lengthen.util.errors import SettingError
from tests.integrations.accelerated import Accelerated, rank
from tests.integrations.reference import (
    COUNT,
    PLAN,
    Ours,
    check,
    check_processes,
    close,
    config_of,
    joined,
    trained,
)
from tests.ways_out import takes


@pytest.fixture(scope="module")
def ours(store: Path) -> Ours:
    return trained(config_of(store))


@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_step_is_that_of_our_own_trainer(
    store: Path, tmp_path: Path, ours: Ours, count: int
) -> None:
    loop = Accelerated(store, tmp_path / "run", gradient_accumulation_steps=count)
    loop.train()
    loop.loader.close()
    assert joined([loop.seen], count) == ours.rows
    assert len(loop.seen) == len(loop.loader)
    check(tmp_path / "run", ours)
    close(loop.weights(), ours)


@pytest.mark.ranks
def test_two_processes_train_the_tokens_of_one_and_resume_to_the_bit(
    store: Path, tmp_path: Path, ours: Ours
) -> None:
    check_processes(rank, store, tmp_path, ours)


def test_a_run_resumes_from_the_hosts_own_checkpoint_to_the_bit(
    store: Path, tmp_path: Path, ours: Ours
) -> None:
    loop = Accelerated(store, tmp_path / "run")
    loop.train(6 * COUNT)
    loop.host.save_state(str(tmp_path / "state"))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    loop.train()  # a run goes on after a save
    loop.loader.close()
    again = Accelerated(store, tmp_path / "copy")
    again.host.load_state(str(tmp_path / "state"))
    again.train()
    assert joined([again.seen], COUNT) == ours.rows[6:]
    assert all(torch.equal(*pair) for pair in zip(again.weights(), loop.weights(), strict=True))
    check(tmp_path / "copy", ours)
    again.loader.close()
    again.host.save_state(str(tmp_path / "end"))  # after its end too


def test_a_run_resumes_with_another_number_of_micro_batches(
    store: Path, tmp_path: Path, ours: Ours
) -> None:
    loop = Accelerated(store, tmp_path / "run")
    loop.train(5 * COUNT)
    loop.host.save_state(str(tmp_path / "state"))
    loop.loader.close()
    again = Accelerated(store, tmp_path / "run", gradient_accumulation_steps=4)
    again.host.load_state(str(tmp_path / "state"))
    again.train()
    again.loader.close()
    assert joined([again.seen], 4) == ours.rows[5:]
    check(tmp_path / "run", ours)


@pytest.mark.parametrize("logged", [True, False])
def test_a_step_that_was_given_up_is_none_once_a_checkpoint_is_loaded(
    store: Path, tmp_path: Path, ours: Ours, logged: bool
) -> None:
    loop = Accelerated(store, tmp_path / "run")
    loop.train(6 * COUNT)
    loop.host.save_state(str(tmp_path / "state"))
    if logged:
        loop.train(1)
    else:
        next(iter(loop.loader))  # and its forward pass ran out of memory
    loop.own.zero_grad()
    loop.host.load_state(str(tmp_path / "state"))
    loop.train()
    loop.loader.close()
    check(tmp_path / "run", ours)
    close(loop.weights(), ours)


def test_a_run_whose_last_step_failed_has_not_finished(store: Path, tmp_path: Path) -> None:
    loop = Accelerated(store, tmp_path / "run")
    calls = iter(range(len(loop.loader) - 1))

    def fails(*_: object) -> None:
        if next(calls, None) is None:
            raise RuntimeError("out of memory")

    loop.own.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        loop.train()
    loop.loader.close()
    assert "finished" not in [event.name for event in read_metrics(tmp_path / "run").events]


def test_reports_and_comparisons_read_the_log(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Accelerated(store, tmp_path / "run")
    loop.train(6 * COUNT)
    loop.loader.log_evaluation(4.75)
    loop.train()
    loop.loader.log_evaluation(4.5, side_tokens=512)
    loop.loader.close()
    (run,) = gather([tmp_path / "run"])
    assert [one.loss for one in run.metrics.evaluations] == [4.75, 4.5]
    assert run.metrics.events[-1].name == "finished"
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "4.500" in capsys.readouterr().out


# What is refused


def test_a_step_that_was_not_logged_is_refused(store: Path, tmp_path: Path) -> None:
    loop = Accelerated(store, tmp_path / "run")
    batches = iter(loop.loader)
    next(batches)
    with pytest.raises(SettingError, match=r"^log_step: must be called after every micro-batch"):
        loop.loader.state_dict()
    with pytest.raises(SettingError, match=r"loader\.log_step\(loss, norm, optimizer\)$"):
        next(batches)


@takes("use accelerator.accumulate(model), and leave gradient_accumulation_steps")
def test_updates_in_the_middle_of_a_step_are_refused(store: Path, tmp_path: Path) -> None:
    loop = Accelerated(store, tmp_path / "run")
    next(iter(loop.loader))
    loop.host.gradient_accumulation_steps = 1  # or no `accumulate`
    with loop.host.accumulate(loop.model):
        pass
    with pytest.raises(SettingError, match=r"^sync_gradients: must update after micro-batch 2 of"):
        loop.loader.log_step(torch.ones(()), 1.0, loop.optimizer)
    again = Accelerated(store, tmp_path / "again")  # which does
    again.train(4)
    again.loader.close()


@takes("save where accelerator.sync_gradients is true")
def test_a_save_in_the_middle_of_a_step_is_refused(store: Path, tmp_path: Path) -> None:
    loop = Accelerated(store, tmp_path / "run")
    loop.train(1)
    with pytest.raises(SettingError, match="^save_state: must come after the last of a step's 2"):
        loop.host.save_state(str(tmp_path / "state"))
    loop = Accelerated(store, tmp_path / "other")
    loop.train(2)
    assert loop.host.sync_gradients
    loop.host.save_state(str(tmp_path / "state"))
    loop.loader.close()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"rows": 8}])
def test_a_resume_with_another_plan_is_refused(
    store: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    one = Accelerated(store, tmp_path / "one")
    one.train(2)
    state = one.loader.state_dict()
    one.loader.close()
    other = Accelerated(store, tmp_path / "two").loader
    with pytest.raises(SettingError, match="^store: the checkpoint was trained on other"):
        other.load_state_dict({**state, "store_id": "other"})
    plan = PLAN.__class__(**{**vars_of(PLAN), **changes})
    with pytest.raises(SettingError, match=f"^{next(iter(changes))}: the checkpoint has"):
        Accelerated(store, tmp_path / "two", plan).loader.load_state_dict(state)


def vars_of(plan: Any) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


WRONG = [
    ("mixed_precision", "fp16", "^mixed_precision: must be 'no' or 'bf16': .* got 'fp16'"),
    ("parallelism_config", "some", "^parallelism_config: must be absent"),
    ("distributed_type", DistributedType.FSDP, "^distributed_type: must be data parallel alone"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_an_accelerator_that_would_train_on_something_else_is_refused(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
    message: str,
) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    host = Accelerator(cpu=True)
    monkeypatch.setattr(type(host), name, value, raising=False)
    with pytest.raises(SettingError, match=message):
        LengthenLoader(host, store, PLAN, tmp_path)


@takes("on processors, give Accelerator(cpu=True)")
def test_processes_that_do_not_know_of_each_other_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    alone = Accelerator(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match=r"^world_size: must be the 2 processes .*\(cpu=True\)$"):
        LengthenLoader(alone, store, PLAN, tmp_path)
    # The ranks of the tests above are started so, with cpu=True, and know of each other.
