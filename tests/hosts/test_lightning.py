"""In a Trainer of Lightning 2.6.6: our own trainer's rows, losses and weights."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.cli.main import main
from lengthen.reporting.gather import gather
from lengthen.util.errors import CheckpointError, SettingError
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

pytestmark = [
    pytest.mark.hosts,
    # Of the host itself: what it deprecates, the number of its workers, loggers that are left out.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def ours(store: Path) -> Ours:
    return trained(config_of(store))


def lit(store: Path, out: Path, *given: Any, **options: Any) -> Any:
    from tests.hosts.lit import Lit

    return Lit(store, out, *given, **options)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_step_is_that_of_our_own_trainer(
    store: Path, tmp_path: Path, ours: Ours, count: int
) -> None:
    options = {"accumulate_grad_batches": count, "val_check_interval": 1.0}
    run = lit(store, tmp_path, **options)
    run.fit()
    assert joined([run.seen.rows], count) == ours.rows
    check(tmp_path / "run", ours)
    close(run.weights(), ours)


@pytest.mark.ranks
def test_two_processes_train_the_tokens_of_one_and_resume_to_the_bit(
    store: Path, tmp_path: Path, ours: Ours
) -> None:
    from tests.hosts.lit import rank

    check_processes(rank, store, tmp_path, ours)


def test_a_run_resumes_from_the_hosts_own_checkpoint_to_the_bit(
    store: Path, tmp_path: Path, ours: Ours
) -> None:
    whole = lit(store, tmp_path / "one")
    whole.fit()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    again = lit(store, tmp_path / "two")
    again.fit(ckpt_path=str(tmp_path / "two/states/step=6.ckpt"))
    assert joined([again.seen.rows], COUNT) == ours.rows[6:]
    assert all(torch.equal(*pair) for pair in zip(again.weights(), whole.weights(), strict=True))
    check(tmp_path / "two/run", ours)


def test_a_checkpoint_that_is_saved_after_an_error_goes_on_with_the_log(
    store: Path, tmp_path: Path, ours: Ours
) -> None:
    run = lit(store, tmp_path)

    def fails(*_: object) -> None:
        raise RuntimeError("the disk of the validation part is away")

    run.module.on_validation_start = fails
    with pytest.raises(RuntimeError, match="is away"):
        run.fit()
    run.trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = lit(store, tmp_path)
    again.fit(ckpt_path=str(tmp_path / "last.ckpt"))
    check(tmp_path / "run", ours)
    close(again.weights(), ours)


def test_reports_and_comparisons_read_the_log(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lit(store, tmp_path)
    run.fit()
    (found,) = gather([tmp_path / "run"])
    steps = [one.step for one in found.metrics.evaluations]
    assert steps[:4] == [3, 6, 9, 12]
    assert found.metrics.events[-1].name == "finished"
    last = found.metrics.evaluations[-1].loss
    assert last == pytest.approx(run.trainer.callback_metrics["val_loss"].item(), rel=1e-12)
    assert main(["report", str(tmp_path / "run")]) == 0
    assert f"{last:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(("checkpoint", "step"), [("states/step=6.ckpt", 6), ("end.ckpt", 7)])
def test_a_run_goes_on_to_a_larger_budget(
    store: Path, tmp_path: Path, checkpoint: str, step: int
) -> None:
    plan = replace(PLAN, decay_tokens=3_500)
    ended = lit(store, tmp_path / "one", plan, max_steps=7)
    ended.fit()
    ended.trainer.save_checkpoint(tmp_path / "one/end.ckpt")
    longer = replace(plan, budget=3_500)
    again = lit(store, tmp_path / "one", longer)
    again.fit(ckpt_path=str(tmp_path / "one" / checkpoint))
    ours = trained(config_of(store, longer))
    assert joined([again.seen.rows], COUNT) == ours.rows[step:]
    check(tmp_path / "one/run", ours)
    close(again.weights(), ours)


# What is refused


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("max_epochs", 2, r"^max_epochs: must be 1, as the data module holds the whole budget, go"),
        ("limit_train_batches", 4, r"^limit_train_batches: must be 1.0, as max_steps ends"),
        ("fast_dev_run", True, r"^limit_train_batches: must be 1.0"),
        ("overfit_batches", 0.5, r"^limit_train_batches: must be 1.0"),
        ("precision", "16-true", r"^precision: must be '32-true' or"),
        ("val_check_interval", 3, r"^val_check_interval: must be a multiple of accumulate_grad_b"),
    ],
)
def test_a_wrong_argument_is_one_line(
    store: Path, tmp_path: Path, option: str, value: Any, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        lit(store, tmp_path, **{option: value}).fit()
    assert not (tmp_path / "run").exists()


@takes("give Trainer(callbacks=[LengthenCallback(data, ...)])")
def test_a_data_module_without_its_callback_is_refused(store: Path, tmp_path: Path) -> None:
    run = lit(store, tmp_path)
    run.data.start = None
    with pytest.raises(SettingError, match="^callbacks: must have the data module's own; give"):
        run.fit()


def test_a_data_module_of_another_callback_is_refused(store: Path, tmp_path: Path) -> None:
    run = lit(store, tmp_path)
    run.data = lit(store, tmp_path / "other").data
    with pytest.raises(SettingError, match="^datamodule: must be the one that the callback"):
        run.fit()


def test_a_step_that_leaves_a_micro_batch_out_is_refused(store: Path, tmp_path: Path) -> None:
    run = lit(store, tmp_path)
    run.module.none_at = 3
    with pytest.raises(SettingError, match="^training_step: must return the mean loss of every"):
        run.fit()


def test_learning_rates_by_the_epoch_and_optimization_by_hand_are_refused(
    store: Path, tmp_path: Path
) -> None:
    run = lit(store, tmp_path)
    run.module.interval = "epoch"
    with pytest.raises(SettingError, match=r"^lr_scheduler.interval: must be 'step'"):
        run.fit()
    options = {"accumulate_grad_batches": 1, "gradient_clip_val": None, "val_check_interval": 1.0}
    run = lit(store, tmp_path, **options)
    run.module.automatic_optimization = False
    with pytest.raises(SettingError, match="^automatic_optimization: must be True"):
        run.fit()


@takes("take one of a whole step of {}, that this callback was in")
def test_a_checkpoint_that_cannot_be_gone_on_with_exactly_is_refused(
    store: Path, tmp_path: Path
) -> None:
    lit(store, tmp_path, max_steps=6).fit()
    path = tmp_path / "states/step=6.ckpt"
    other = replace(PLAN, seed=1)
    with pytest.raises(SettingError, match="^seed: the checkpoint has 0, got 1"):
        lit(store, tmp_path, other).fit(ckpt_path=str(path))
    options = {"accumulate_grad_batches": 3}
    with pytest.raises(
        CheckpointError, match="saved after micro-batch 12, with a ledger of step 6"
    ):
        lit(store, tmp_path, **options).fit(ckpt_path=str(path))
    lit(store, tmp_path).fit(ckpt_path=str(path))
