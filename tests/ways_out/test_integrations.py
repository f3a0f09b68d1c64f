"""Ways out of what is said to a Trainer of Transformers."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer, default_data_collator

from lengthen.data.prepare import prepare
from lengthen.integrations.arguments import ABSENT, REQUIRED, check_arguments
from lengthen.integrations.dataset import rows_of_rank
from lengthen.integrations.transformers import LengthenCallback, LengthenDataset
from lengthen.util.errors import CheckpointError, SettingError
from tests.integrations.hosted import arguments, hosted, llama
from tests.integrations.test_first_step import SHORT, Returns, Silent, steps
from tests.ways_out import takes

WRONG: dict[str, object] = {
    "per_device_train_batch_size": 8,
    "train_sampling_strategy": "random",
    "remove_unused_columns": True,
    "logging_strategy": "epoch",
    "logging_steps": 500,
    "ignore_data_skip": True,
    "restore_callback_states_from_checkpoint": True,
    "average_tokens_across_devices": False,
    "label_smoothing_factor": 0.1,
    "auto_find_batch_size": True,
    "num_train_epochs": 3.0,
}


@takes(
    "give TrainingArguments({}={})",
    "set gradient_accumulation_steps so that a micro-batch fits",
    "give accelerator_config={{}: False}",
)
def test_an_argument_that_will_not_do(tmp_path: Path) -> None:
    assert WRONG.keys() >= {name for name, _, _ in REQUIRED}
    for name, value in WRONG.items():
        with pytest.raises(SettingError) as caught:
            check_arguments(arguments(tmp_path, **{name: value}), 10)
        # The hint is Python: what it says is carried out as it stands.
        given = eval(f"dict{caught.value.hint.removeprefix('give TrainingArguments')}")
        check_arguments(arguments(tmp_path, **given), 10)
    check_arguments(arguments(tmp_path, gradient_accumulation_steps=8), 10)
    for name in ("dispatch_batches", "split_batches"):
        with pytest.raises(SettingError) as caught:
            check_arguments(arguments(tmp_path, accelerator_config={name: True}), 10)
        given = eval(caught.value.hint.partition("=")[2])
        check_arguments(arguments(tmp_path, accelerator_config=given), 10)


@takes(
    "start it with torchrun alone",
    "start with torchrun, or set CUDA_VISIBLE_DEVICES",
    "give the plan a larger budget",
)
def test_a_machine_or_a_budget_that_will_not_do(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {**vars(arguments(tmp_path)), "n_gpu": 1, "world_size": 1}
    for name in ABSENT:
        with pytest.raises(SettingError, match="start it with torchrun alone"):
            check_arguments(SimpleNamespace(**{**plain, name: "some"}), 10)
    check_arguments(SimpleNamespace(**plain), 10)
    several = SimpleNamespace(**{**plain, "n_gpu": 4})
    with pytest.raises(SettingError, match="start with torchrun, or set CUDA_VISIBLE_DEVICES"):
        check_arguments(several, 10)
    # Under torchrun, or with one card visible, a process has one.
    check_arguments(SimpleNamespace(**{**plain, "n_gpu": 1}), 10)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError) as caught:
        check_arguments(SimpleNamespace(**{**plain, "world_size": 1}), 10)
    assert caught.value.hint == "on a processor, give TrainingArguments(use_cpu=True)"
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(SettingError, match="give the plan a larger budget"):
        hosted(store, tmp_path, SHORT, max_steps=20)
    hosted(store, tmp_path, replace(SHORT, budget=12_000), max_steps=20)


@takes(
    "give Trainer(callbacks=[LengthenCallback(dataset, ...)])",
    "give Trainer(data_collator=transformers.default_data_collator)",
    "leave some out, or give eval_dataset=dataset.validation()",
    "prepare it with a larger --valid",
)
def test_what_a_trainer_is_given_with_the_dataset(store: Path, tmp_path: Path, text: str) -> None:
    dataset = LengthenDataset(store, SHORT)
    with pytest.raises(SettingError, match=r"give Trainer\(callbacks=\[LengthenCallback\(dat"):
        Trainer(llama(), arguments(tmp_path), train_dataset=dataset).train()
    model = llama()
    given: dict[str, Any] = {"callbacks": [LengthenCallback(dataset, tmp_path / "run")]}
    Trainer(model, arguments(tmp_path, max_steps=1), train_dataset=dataset, **given).train()
    assert len(steps(tmp_path)) == 1

    def collate(rows: Any) -> Any:
        return {"input_ids": default_data_collator(rows)["input_ids"]}

    out = tmp_path / "collated"
    with pytest.raises(SettingError, match=r"Trainer\(data_collator=transformers\.default_data"):
        hosted(store, out, SHORT, given={"data_collator": collate}).trainer.train()
    shutil.rmtree(out, ignore_errors=True)
    right = {"data_collator": default_data_collator}
    hosted(store, out, SHORT, given=right, max_steps=1).trainer.train()
    rows = [{"input_ids": torch.zeros(4), "labels": torch.zeros(4)}] * 3
    args = arguments(tmp_path, per_device_eval_batch_size=2)
    with pytest.raises(SettingError, match="leave some out, or give eval_dataset=dataset.valid"):
        rows_of_rank(rows, args)
    assert rows_of_rank(dataset.validation(), args)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    source, bare = tmp_path / "text.txt", tmp_path / "bare"
    prepare(source, bare, tokenizer="bytes", valid=0.0001, quiet=True)
    with pytest.raises(SettingError, match="prepare it with a larger --valid"):
        LengthenDataset(bare, SHORT).validation()
    prepare(source, bare, tokenizer="bytes", valid=0.1, quiet=True, overwrite=True)
    assert LengthenDataset(bare, SHORT).validation()


@takes(
    "leave control.should_log and logs as they are",
    "return them beside the loss, without a fused loss kernel",
    "return them without detach()",
)
def test_what_is_checked_of_every_step(store: Path, tmp_path: Path) -> None:
    def attempt(name: str, **changes: Any) -> None:
        hosted(store, tmp_path / name, SHORT, **changes).trainer.train()

    with pytest.raises(SettingError, match="leave control.should_log and logs as they are"):
        attempt("silent", kind=Silent)
    fused = Returns(lambda output: {"loss": output.loss})
    with pytest.raises(SettingError, match="return them beside the loss, without a fused"):
        attempt("fused", model=fused)
    cut = Returns(lambda output: {"loss": output.loss, "logits": output.logits.detach()})
    with pytest.raises(SettingError, match=r"return them without detach\(\)"):
        attempt("cut", model=cut)
    whole = Returns(lambda output: {"loss": output.loss, "logits": output.logits})
    attempt("whole", model=whole)
    assert len(steps(tmp_path / "whole")) > 3


@takes("checkpoint: {}; take one that this callback was in", "give the run its own back")
def test_a_checkpoint_of_another_run(store: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    saved: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    hosted(store, out, SHORT, **saved).trainer.train()
    (tmp_path / "text.txt").write_text(text * 2, encoding="utf-8")
    other = tmp_path / "other"
    prepare(tmp_path / "text.txt", other, tokenizer="bytes", valid=0.1, quiet=True)
    last = str(out / "checkpoint-2")
    with pytest.raises(SettingError, match="give the run its own back"):
        hosted(other, out, SHORT).trainer.train(resume_from_checkpoint=last)
    foreign = shutil.copytree(last, out / "checkpoint-3")
    state = (foreign / "trainer_state.json").read_text(encoding="utf-8")
    without = state.replace('"LengthenCallback"', '"SomebodyElse"')
    (foreign / "trainer_state.json").write_text(without, encoding="utf-8")
    with pytest.raises(CheckpointError, match="take one that this callback was in"):
        hosted(store, out, SHORT).trainer.train(resume_from_checkpoint=str(foreign))
    hosted(store, out, SHORT).trainer.train(resume_from_checkpoint=last)
    assert len(steps(out)) > 3
