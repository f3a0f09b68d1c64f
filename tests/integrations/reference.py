"""A run of our own trainer in float64, which runs in other trainers' loops are held against."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthen.config.load import build
from lengthen.config.schema import Config
from lengthen.core.pacing import Linear
from lengthen.data.store import Store
from lengthen.integrations.data_plan import DataPlan
from lengthen.model.gpt import GPT
from lengthen.model.optim import parameter_groups
from lengthen.run.metrics import read_metrics
from lengthen.run.records import StepRecord
from tests import ranks
from tests.conftest import trainer_of

Rows = tuple[list[list[int]], list[list[int]]]  # rows of inputs and of targets

SAME = ("step", "tokens", "length", "rows", "joined")
MEASURED = ("loss", "grad_norm", "lr", "variance_norm", "variance_max")
RATE, SEED = 1e-2, 0
COUNT = 2  # micro-batches of a step in each process
# Seven rows: neither two micro-batches nor four get equal shares, and one of eight gets none.
PLAN = DataPlan(
    pacing=Linear(start=8, end=64, duration=9),
    rows=7,
    budget=3_000,
    reuse_after=3,
    warmup_steps=4,
)


class Loss(nn.Module):
    """A model of somebody else's: tokens in, logits out."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gpt.logits(inputs)


class Ours(NamedTuple):
    """What our own trainer did, step by step."""

    records: list[StepRecord]
    rows: list[Rows]
    weights: list[Tensor]


def config_of(store: Path, plan: DataPlan = PLAN) -> Config:
    tables = plan.tables()
    tables["model"] |= {"layers": 1, "width": 16, "heads": 2}
    tables["batch"] |= {"micro_tokens": 128}
    tables["data"] = {"path": str(store)}
    tables["run"] |= {"precision": "fp32", "compile": "off"}  # "auto" is a training's to decide
    tables["optimizer"] = {
        "learning_rate": RATE,
        "min_learning_rate": 0.0,
        "warmup_steps": plan.warmup_steps,
    }
    tables["evaluation"] = {"every_steps": 0, "probe_every_steps": 0}
    return build(tables)


def trained(config: Config) -> Ours:
    """Train to the end of the budget in float64."""
    trainer = trainer_of(config)
    trainer.model.double()
    records, rows = [], [([], [])]  # type: tuple[list[StepRecord], list[Rows]]

    def look(_: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        for side, part in zip(rows[-1], batch[:2], strict=True):
            side.extend(part.tolist())

    trainer.module.register_forward_pre_hook(look)
    while record := trainer.step():
        records.append(record)
        rows.append(([], []))
    return Ours(records, rows[:-1], [one.detach() for one in trainer.model.parameters()])


def model_of(config: Config) -> Loss:
    """Return the same model, with the same weights, as a stranger would have it."""
    return Loss(trainer_of(config).model.double())


def optimizer_of(model: Loss, config: Config) -> torch.optim.Optimizer:
    groups = parameter_groups(model.gpt, config.optimizer.weight_decay, decay_positions=False)
    betas, epsilon = config.optimizer.betas, config.optimizer.epsilon
    return torch.optim.AdamW(groups, lr=RATE, betas=betas, eps=epsilon)


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def validation_loss(model: Loss, store: Path) -> float:
    """The mean loss of the first eight full-length rows of the validation part."""
    rows = torch.from_numpy(Store.open(store).valid[: 8 * 64 + 1].astype("int64"))
    with torch.no_grad():
        return float(mean_loss(model(rows[:-1].view(8, 64)), rows[1:].view(8, 64)))


def joined(seen: list[list[Rows]], count: int) -> list[Rows]:
    """Lay the micro-batches of all ranks end to end, step by step, without blank rows."""
    steps: list[Rows] = []
    for at in range(0, len(seen[0]), count):
        parts = [part for rank in seen for part in rank[at : at + count]]
        inputs, targets = ([row for part in parts for row in part[side]] for side in (0, 1))
        steps.append((inputs, targets))
    return steps


def check(out: Path, ours: Ours) -> None:
    """Hold a run's log against our own trainer's, line by line."""
    theirs = read_metrics(out).steps
    assert len(theirs) == len(ours.records)
    for line, own in zip(theirs, ours.records, strict=True):
        assert [getattr(line, name) for name in SAME] == [getattr(own, name) for name in SAME]
        for name in MEASURED:
            assert getattr(line, name) == pytest.approx(getattr(own, name), rel=1e-10, abs=1e-10)


def close(weights: list[Tensor], ours: Ours) -> None:
    for one, own in zip(weights, ours.weights, strict=True):
        torch.testing.assert_close(one, own, rtol=0, atol=1e-10)


def check_processes(
    rank: Callable[[Path, Path, str], int], store: Path, out: Path, ours: Ours, count: int = 2
) -> None:
    """Hold some processes to our trainer, and those killed and resumed to those that were not.

    `rank` leaves NAME-RANK.json with its rows and NAME-RANK.pt with its weights in a folder.
    """
    one, two = out / "one", out / "two"
    one.mkdir()
    ranks.finish(ranks.start(*[partial(rank, store, one, "whole")] * count))
    seen = [json.loads((one / f"whole-{number}.json").read_text()) for number in range(count)]
    assert joined(seen, COUNT) == [tuple(map(list, step)) for step in ours.rows]
    check(one / "run", ours)
    weights = torch.load(one / "whole-0.pt")
    close(list(weights.values()), ours)

    two.mkdir()
    ranks.finish(ranks.start(*[partial(rank, store, two, "killed")] * count))
    ranks.finish(ranks.start(*[partial(rank, store, two, "resumed")] * count))
    again = torch.load(two / f"resumed-{count - 1}.pt")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    check(two / "run", ours)
