"""The loop: a failed save is survived once, memory that runs out is reported, nothing is lost."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import name_of
from lengthen.config.load import load
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import fit_check
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.run.records import EvalRecord, ProbeRecord, StepRecord
from lengthen.training import monitor
from lengthen.training.fit import try_micro_batch
from lengthen.training.start import resume, train
from lengthen.training.trainer import Trainer
from lengthen.util.disk import Disk
from lengthen.util.errors import MemoryLimitError, SettingError, StorageError
from lengthen.util.signals import StopSignal
from tests.conftest import AskFor, Configure


def full_while_saving(steps: set[str]) -> Disk:
    """A disk that is full whenever a checkpoint of one of these steps is begun."""

    def before(_number: int, name: str, path: Path) -> None:
        begun = name == "make_directory" and path.name.startswith(".tmp-")
        if begun and any(step in path.name for step in steps):
            raise OSError(errno.ENOSPC, "full")

    return Disk(before=before)


def test_f03_one_failed_save_is_an_event_and_training_continues(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(saving={"every_steps": 4, "keep": 2})
    train(config, tmp_path / "run", disk=full_while_saving({"step-00000008"}), quiet=True)
    events = read_metrics(tmp_path / "run" / "metrics.jsonl").events
    assert [event.step for event in events if event.name == "save_failed"] == [8]
    assert checkpoint.load_newest(tmp_path / "run" / "checkpoints")[0].step > 8


def test_f03_two_failed_saves_in_a_row_end_the_run_with_the_older_one_whole(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(saving={"every_steps": 4, "keep": 2})
    disk = full_while_saving({"step-00000008", "step-00000012"})
    with pytest.raises(StorageError, match="free some space"):
        train(config, tmp_path / "run", disk=disk, quiet=True)
    assert checkpoint.load_newest(tmp_path / "run" / "checkpoints")[0].step == 4
    resume(tmp_path / "run", quiet=True)


def test_going_back_to_an_older_checkpoint_starts_a_line_of_its_own(
    configured: Configure, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(configured(), run, quiet=True)
    last = checkpoint.load_newest(run / "checkpoints")[0].step
    lower = {"optimizer": {"learning_rate": 5e-3}, "saving": {"every_steps": 3, "keep": 2}}
    resume(run, checkpoint=name_of(5), settings=lower, quiet=True)
    newest = checkpoint.load_newest(run / "checkpoints")[0]
    assert newest.step == last
    assert len(list((run / "checkpoints").glob("superseded-step-*"))) == last - 5
    resume(run, settings={"budget": {"tokens": 12_000}}, quiet=True)
    steps = [line.step for line in read_metrics(run / "metrics.jsonl").steps]
    assert steps == list(range(1, len(steps) + 1))


def test_a_finished_run_resumed_has_nothing_to_set_aside(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(), tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "metrics.discarded.jsonl").exists()


def test_a_budget_below_what_is_trained_changes_nothing(
    configured: Configure, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(configured(), run, quiet=True)
    before = {path: path.read_bytes() for path in (run / "config.toml", run / "metrics.jsonl")}
    with pytest.raises(SettingError, match=r"budget\.tokens: must be at least the \d+ tokens"):
        resume(run, settings={"budget": {"tokens": 5000}}, quiet=True)
    assert {path: path.read_bytes() for path in before} == before


def losses(run: Path) -> dict[tuple[str, int], float]:
    metrics = metrics_of(run)
    kept: list[StepRecord | EvalRecord | ProbeRecord]
    kept = [*metrics.steps, *metrics.evaluations, *metrics.probes]
    return {(record.kind, record.step): record.loss or 0.0 for record in kept}


def metrics_of(run: Path) -> Metrics:
    return read_metrics(run / "metrics.jsonl")


def ledger_at(run: Path, step: int) -> object:
    return checkpoint.load_step(run / "checkpoints", name_of(step)).state["ledger"]


@pytest.mark.parametrize(
    ("fault", "step", "found"),
    [("step:7:oom", 7, 128), ("step:7-8:oom", 7, 64), ("eval:2:oom", 5, 128)],
    ids=["once", "twice", "in an evaluation"],
)
def test_f35_memory_that_runs_out_halves_the_micro_batches_and_repeats_the_step_with_the_same_rows(
    configured: Configure, tmp_path: Path, ask_for: AskFor, fault: str, step: int, found: int
) -> None:
    config = configured(run={"precision": "fp64"})
    train(config, tmp_path / "enough", quiet=True)
    ask_for(fault)
    train(config, tmp_path / "short", quiet=True)
    enough, short = (losses(tmp_path / name) for name in ("enough", "short"))
    assert short == pytest.approx(enough, rel=1e-9)
    for number in (step - 1, step, step + 1):
        assert ledger_at(tmp_path / "short", number) == ledger_at(tmp_path / "enough", number)
    events = [e for e in metrics_of(tmp_path / "short").events if e.name != "saved"]
    assert [(e.name, e.step, e.facts.get("micro_tokens")) for e in events] == [
        ("micro_tokens_lowered", step, found),
        ("finished", len(metrics_of(tmp_path / "short").steps), None),
    ]
    saved = checkpoint.load_newest(tmp_path / "short" / "checkpoints")[0].state
    assert saved["micro_tokens"] == saved["numerics"]["micro_tokens"] == found
    assert load(str(tmp_path / "short" / "config.toml"))[0].batch.micro_tokens == found


def test_f35_a_restart_continues_in_the_smaller_micro_batches(
    configured: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    run = tmp_path / "run"
    ask_for("step:7:oom")
    train(configured(budget={"tokens": 2000}), run, quiet=True)
    ask_for("")
    train(configured(budget={"tokens": 2000}), run, resume="auto", quiet=True)
    assert load(str(run / "config.toml"))[0].batch.micro_tokens == 128
    notes = [e for e in metrics_of(run).events if e.name == "note"]
    assert notes == []


def test_f35_a_restart_that_asks_for_smaller_micro_batches_than_the_run_has_gets_them(
    configured: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    run, small = tmp_path / "run", {"rows": 8, "micro_tokens": 64, "reuse_after": 3}
    ask_for("step:7:enospc")
    with pytest.raises(OSError, match="No space left"):
        train(configured(budget={"tokens": 2000}), run, quiet=True)
    ask_for("")
    smaller = configured(budget={"tokens": 2000}, batch=small)
    train(smaller, run, resume="auto", quiet=True)
    assert load(str(run / "config.toml"))[0].batch.micro_tokens == 64
    (resumed,) = [e for e in metrics_of(run).events if e.name == "resumed"]
    assert resumed.facts["overrides"] == {"batch": {"micro_tokens": 64}}


def test_f35_where_one_row_does_not_fit_any_more_the_run_ends_with_what_to_do(
    configured: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    ask_for("step:7-:oom")
    cause = "after step 6, last checkpoint step-00000006; a micro-batch is one row already"
    with pytest.raises(MemoryLimitError, match=cause):
        train(configured(), tmp_path / "run", quiet=True)
    ask_for("")
    resume(tmp_path / "run", quiet=True)


def test_f35_an_update_that_may_be_half_done_is_not_repeated(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_optimizer: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(monitor, "second_moment_scale", fails)
        cause = r"after step 0, .*`lengthen resume .* --batch\.micro_tokens 128` continues"
        with pytest.raises(MemoryLimitError, match=cause):
            train(configured(), tmp_path / "run", quiet=True)
    resume(tmp_path / "run", settings={"batch": {"micro_tokens": 128}}, quiet=True)


def test_f35_another_bug_is_never_taken_for_a_lack_of_memory(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_self: Trainer) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Trainer, "step", fails)
    with pytest.raises(RuntimeError, match="shapes"):
        train(configured(), tmp_path / "run", quiet=True)


def test_f05_a_log_that_cannot_grow_saves_what_is_trained_and_ends_the_run(
    configured: Configure, tmp_path: Path
) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"

    def before(_number: int, name: str, path: Path) -> None:
        if name == "write" and path == metrics and metrics.stat().st_size > 2500:
            raise OSError(errno.ENOSPC, "full")

    config = configured(saving={"every_steps": 0})
    with pytest.raises(StorageError, match=r"metrics\.jsonl: no space left"):
        train(config, tmp_path / "run", disk=Disk(before=before), quiet=True)
    last = read_metrics(metrics).steps[-1].step
    # The step whose line found no room is in the checkpoint all the same.
    assert checkpoint.load_newest(tmp_path / "run" / "checkpoints")[0].step == last + 1
    resume(tmp_path / "run", quiet=True)


def test_f21_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal().listening() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_fit_check_trial_allocates_gradients_and_moments(configured: Configure) -> None:
    config = configured()
    store = open_store(config)
    trainer = Trainer(
        with_store(config, store), store, DistributedContext(torch.device("cpu")), 256
    )
    try_micro_batch(trainer)
    assert len(trainer.optimizer.state) == len(list(trainer.model.parameters()))


@pytest.mark.parametrize(
    ("whole", "most", "found"),
    [(2048, 9999, 2048), (2048, 1000, 512), (640, 320, 320), (64, 64, 64)],
)
def test_f34_the_fit_check_halves_until_it_fits(whole: int, most: int, found: int) -> None:
    assert fit_check(whole, 64, lambda size: size <= most) == found


def test_f34_where_not_one_row_fits_the_fit_check_says_so() -> None:
    with pytest.raises(MemoryLimitError, match="one row of model.length"):
        fit_check(2048, 64, lambda size: False)
