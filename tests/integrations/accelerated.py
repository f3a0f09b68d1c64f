"""A loop of Accelerate around a model that knows nothing of us."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from lengthen.integrations.accelerate import LengthenLoader
from lengthen.integrations.data_plan import DataPlan
from tests.integrations.reference import (
    COUNT,
    PLAN,
    Loss,
    Rows,
    config_of,
    mean_loss,
    model_of,
    optimizer_of,
    validation_loss,
)


class Accelerated:
    """A loop, its model, and what it trained on."""

    def __init__(self, store: Path, out: Path, plan: DataPlan = PLAN, **options: Any) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # one for each process, otherwise
        options = {"cpu": True, "gradient_accumulation_steps": COUNT, **options}
        self.host = Accelerator(**options)
        config = config_of(store, plan)
        self.own: Loss = model_of(config)
        optimizer = optimizer_of(self.own, config)
        self.loader = LengthenLoader(self.host, store, plan, out)
        prepared = self.host.prepare(
            self.own, optimizer, self.loader, self.loader.lr_scheduler(optimizer)
        )
        self.model, self.optimizer, left_alone, self.scheduler = prepared
        assert left_alone is self.loader
        self.seen: list[Rows] = []

    def train(self, micro_batches: int | None = None) -> None:
        host, model, optimizer = self.host, self.model, self.optimizer
        for inputs, targets, _, share in islice(self.loader, micro_batches):
            norm = None
            kept = inputs[: len(inputs) * (share > 0)], targets[: len(targets) * (share > 0)]
            self.seen.append((kept[0].tolist(), kept[1].tolist()))
            with host.accumulate(model):
                loss = share * mean_loss(model(inputs), targets)
                host.backward(loss)
                if host.sync_gradients:
                    norm = host.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                self.scheduler.step()
                optimizer.zero_grad()
            self.loader.log_step(loss, norm, optimizer)

    def weights(self) -> list[Tensor]:
        return [one.detach() for one in self.own.parameters()]


def rank(store: Path, out: Path, work: str) -> int:
    """Train on this rank: the whole budget, or to a checkpoint and no line further, or from it."""
    torch.set_num_threads(1)
    loop = Accelerated(store, out / "run")
    if work == "resumed":
        loop.host.load_state(str(out / "state"))
    loop.train(6 * COUNT if work == "killed" else None)
    if work == "killed":
        loop.host.save_state(str(out / "state"))
    else:
        loop.loader.log_evaluation(validation_loss(loop.own, store))
    loop.loader.close()
    number = loop.host.process_index
    (out / f"{work}-{number}.json").write_text(json.dumps(loop.seen))
    torch.save(loop.own.state_dict(), out / f"{work}-{number}.pt")
    return 0
