"""A script of Lightning around a module that knows nothing of us."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lengthen.integrations.data_plan import DataPlan
from lengthen.integrations.lightning import LengthenCallback, LengthenDataModule
from tests.integrations.reference import (
    COUNT,
    PLAN,
    Rows,
    config_of,
    mean_loss,
    model_of,
    optimizer_of,
)


class Module(LightningModule):
    """Somebody's module, as any tutorial has it."""

    def __init__(self, store: Path, plan: DataPlan) -> None:
        super().__init__()
        self.config, self.plan = config_of(store, plan), plan
        self.model = model_of(self.config)
        self.interval, self.none_at = "step", -1

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor | None:
        inputs, targets = batch
        loss = mean_loss(self.model(inputs), targets)
        return None if number == self.none_at else loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        inputs, targets = batch
        loss = mean_loss(self.model(inputs), targets)
        self.log("val_loss", loss, batch_size=targets.numel(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.model, self.config)
        scheduler = self.plan.lr_scheduler(optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]


class Seen(Callback):
    """Keeps what was trained on."""

    def __init__(self) -> None:
        self.rows: list[Rows] = []
        self.states: list[int] = []

    def on_train_batch_start(self, *given: Any) -> None:
        inputs, targets = given[2]
        blank = not bool(inputs.any())
        self.rows.append(([], []) if blank else (inputs.tolist(), targets.tolist()))


class Lit:
    """A Trainer and what was given to it."""

    def __init__(self, store: Path, out: Path, plan: DataPlan = PLAN, **options: Any) -> None:
        self.module, self.seen = Module(store, plan), Seen()
        self.data = LengthenDataModule(store, plan, validation_tokens=512)
        self.callback = LengthenCallback(self.data, out / "run")
        save = ModelCheckpoint(out / "states", "{step}", every_n_train_steps=6, save_top_k=-1)
        options = {
            "max_epochs": 1,
            "accumulate_grad_batches": COUNT,
            "gradient_clip_val": 1.0,
            "precision": "64-true",
            "accelerator": "cpu",
            "devices": 1,
            "val_check_interval": 3 * COUNT,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
            "callbacks": [self.callback, self.seen, save],
            **options,
        }
        self.trainer = Trainer(**options)

    def fit(self, **options: Any) -> None:
        self.trainer.fit(self.module, datamodule=self.data, **options)

    def weights(self) -> list[Tensor]:
        return [one.detach() for one in self.module.model.parameters()]


def rank(store: Path, out: Path, work: str) -> int:
    """Train on this rank: the whole budget, or six steps of it, or the rest."""
    torch.set_num_threads(1)
    os.environ["TORCHELASTIC_RUN_ID"] = "test"  # as torchrun has it
    last = 7 if work == "killed" else -1
    lit = Lit(store, out, devices=2, strategy="ddp", max_steps=last)
    lit.fit(ckpt_path=str(out / "states" / "step=6.ckpt") if work == "resumed" else None)
    number = os.environ["RANK"]
    (out / f"{work}-{number}.json").write_text(json.dumps(lit.seen.rows))
    torch.save(lit.module.model.state_dict(), out / f"{work}-{number}.pt")
    return 0
