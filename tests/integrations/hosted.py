"""A Trainer of Transformers around a tiny Llama, as a user's script has it; or one rank of it.

torchrun --standalone --nproc-per-node 2 -m tests.integrations.hosted STORE OUT
"""

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from lengthen.core.pacing import Linear
from lengthen.integrations.plain import DataPlan
from lengthen.integrations.transformers import LengthenCallback, LengthenDataset
from tests.integrations import reference
from tests.integrations.reference import Rows

RATE = 1e-2
RIGHT: dict[str, Any] = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "num_train_epochs": 1,
    "train_sampling_strategy": "sequential",
    "remove_unused_columns": False,
    "logging_steps": 1,
}
QUIET: dict[str, Any] = {
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
}
# Ten rows for four micro-batches: three, three, two and two.
PLAN = DataPlan(
    pacing=Linear(start=8, end=64, duration=12),
    rows=10,
    budget=6_000,
    reuse_after=3,
    warmup_steps=4,
)


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = {
        "vocab_size": 257,  # of bytes, and the separator
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        **changes,
    }
    return LlamaForCausalLM(LlamaConfig(**config))


def arguments(out: Path, **changes: Any) -> TrainingArguments:
    return TrainingArguments(str(out), **{**RIGHT, **QUIET, **changes})


@dataclass(frozen=True)
class Hosted:
    """A Trainer and what was given to it."""

    trainer: Trainer
    model: nn.Module
    dataset: LengthenDataset
    callback: LengthenCallback


def hosted(
    store: Path,
    out: Path,
    plan: DataPlan = PLAN,
    model: nn.Module | None = None,
    rate: float = RATE,
    kind: type[Trainer] = Trainer,
    given: dict[str, Any] | None = None,
    **changes: Any,
) -> Hosted:
    """A Trainer whose run lies in `out`/run and whose checkpoints lie in `out`.

    `given` goes to the Trainer, `changes` to its arguments.
    """
    dataset = LengthenDataset(store, plan)
    model = llama() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    callback = LengthenCallback(dataset, out / "run")
    trainer = kind(
        model,
        arguments(out, **changes),
        train_dataset=dataset,
        eval_dataset=dataset.validation(512),
        callbacks=[callback],
        optimizers=(optimizer, dataset.lr_scheduler(optimizer)),
        **(given or {}),
    )
    trainer.remove_callback(PrinterCallback)
    return Hosted(trainer, model, dataset, callback)


def micro_batches_of(model: nn.Module) -> list[Rows]:
    """Return a list that fills with inputs and targets of every micro-batch, without blank rows."""
    seen: list[Rows] = []

    def look(_: nn.Module, __: tuple[()], batch: dict[str, torch.Tensor]) -> None:
        if model.training:
            inputs, targets = batch["input_ids"], batch["shift_labels"]
            kept = targets[:, 0] >= 0
            seen.append((inputs[kept].tolist(), targets[kept].tolist()))

    model.register_forward_pre_hook(look, with_kwargs=True)
    return seen


class Stranger(nn.Module):
    """Our own model as the Trainer calls those of Transformers."""

    def __init__(self, model: reference.Loss) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        logits = self.model(input_ids)
        assert shift_labels is not None
        flat = logits.flatten(0, 1), shift_labels.flatten()
        number = shift_labels.numel() if num_items_in_batch is None else num_items_in_batch
        loss = nn.functional.cross_entropy(*flat, reduction="sum") / number
        return {"loss": loss, "logits": logits}


def in_float64(store: Path, out: Path, **changes: Any) -> tuple[reference.Loss, Trainer]:
    """Our own model, and a Trainer that has it as a stranger's."""
    AcceleratorState._reset_state(reset_partial_state=True)  # that of an earlier Trainer
    config, dataset = reference.config_of(store), LengthenDataset(store, reference.PLAN)
    model = reference.model_of(config)
    optimizer = reference.optimizer_of(model, config)
    trainer = Trainer(
        Stranger(model),
        arguments(out, **changes),
        train_dataset=dataset,
        eval_dataset=dataset.validation(512),
        callbacks=[LengthenCallback(dataset, out / "run")],
        optimizers=(optimizer, dataset.lr_scheduler(optimizer)),
    )
    trainer.remove_callback(PrinterCallback)
    return model, trainer


def rank(store: Path, out: Path, work: str) -> int:
    """Train on this rank: the whole budget, or to two steps after a save, or from there."""
    torch.set_num_threads(1)
    changes: dict[str, Any] = {"save_strategy": "steps", "save_steps": 6, "ddp_backend": "gloo"}
    changes |= {"max_steps": 8} if work == "killed" else {"eval_strategy": "epoch"}
    count = reference.COUNT
    model, trainer = in_float64(store, out, gradient_accumulation_steps=count, **changes)
    assert trainer.model is not None
    seen = micro_batches_of(trainer.model)
    resumed = str(out / "checkpoint-6") if work == "resumed" else None
    trainer.train(resume_from_checkpoint=resumed)
    number = os.environ["RANK"]
    (out / f"{work}-{number}.json").write_text(json.dumps(seen))
    torch.save(model.state_dict(), out / f"{work}-{number}.pt")
    return 0


def exact(model: nn.Module, rows: list[dict[str, torch.Tensor]]) -> float:
    """The mean loss over all rows, each of them once."""
    inputs, targets = (torch.stack([row[name] for row in rows]) for name in INPUTS)
    with torch.no_grad():
        logits = model.eval()(input_ids=inputs).logits
    return float(nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))


INPUTS = ("input_ids", "shift_labels")


def main(store: str, out: str) -> None:
    torch.set_num_threads(1)
    # Seven rows for two ranks of four micro-batches: one of one rank has none.
    changed = replace(PLAN, rows=7)
    backend = "gloo" if "RANK" in os.environ else None
    # Eight rows: in one process three, three and two; in two of them four are missing.
    evaluation: dict[str, Any] = {
        "eval_on_start": True,
        "eval_strategy": "steps",
        "eval_steps": 20,
        "per_device_eval_batch_size": 3,
    }
    host = hosted(Path(store), Path(out), changed, ddp_backend=backend, **evaluation)
    seen = micro_batches_of(host.model)
    host.trainer.train()
    left = {
        "seen": seen,
        "exact": exact(host.model, host.dataset.validation(512)),
        "theirs": [
            one["eval_loss"] for one in host.trainer.state.log_history if "eval_loss" in one
        ],
    }
    (Path(out) / f"rank-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(left))


if __name__ == "__main__":
    main(*sys.argv[1:])
