"""Training with data.documents = "mask": each document and each piece of a row by itself."""

import json
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lengthen.checkpoint import read as checkpoint
from lengthen.cli.main import main
from lengthen.config.schema import Config
from lengthen.core.shuffle import KeyedPermutation, sub_seed
from lengthen.data.prepare import prepare
from lengthen.data.stream import StreamState
from lengthen.data.token_row import Tokens
from lengthen.evaluation.loss import fronts, sequences_in
from lengthen.evaluation.results import read
from lengthen.run.directory import RunPaths
from lengthen.training.start import train
from lengthen.training.trainer import Trainer
from tests.conftest import Configure, trainer_of
from tests.naive_ledger import tokens_of

# With beta1 = 0 Adam's first moment is the last gradient itself. The second step joins pieces.
BASE: dict[str, dict[str, Any]] = {
    "model": {"positions": "rope", "qk_norm": True, "z_loss": 0.01},
    "optimizer": {"betas": [0.0, 0.9], "clip": 0.0, "warmup_steps": 0},
    "run": {"precision": "fp64"},
    "pacing": {"kind": "staged", "values": [24, 48, 64], "boundaries": [1, 2]},
    "batch": {"rows": 7, "micro_tokens": 64, "reuse_after": 1},
    "budget": {"tokens": 7 * (24 + 48 + 64)},
    "evaluation": {"every_steps": 0, "probe_every_steps": 0},
    "saving": {"every_steps": 0},
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    """A store of documents of 5 to 60 bytes."""
    folder = tmp_path_factory.mktemp("many")
    lines = [line[: 5 + number % 56] for number, line in enumerate(text.splitlines())]
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": line}) + "\n" for line in lines)
    prepare(
        [str(folder / "texts.jsonl")], folder / "tokens", tokenizer="bytes", valid=0.1, quiet=True
    )
    return folder / "tokens"


def masked(configured: Configure, many: Path, **tables: dict[str, Any]) -> Config:
    base = {**BASE, "data": {"path": str(many), "documents": "mask"}}
    return configured(**{n: {**base.get(n, {}), **tables.get(n, {})} for n in {**base, **tables}})


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The gradient of the last step, by weight."""
    moments = trainer.tensors()["optimizer"]
    return {key.removesuffix(".exp_avg"): t for key, t in moments.items() if key.endswith("_avg")}


def cuts(trainer: Trainer, tokens: Tokens) -> list[tuple[int, list[int]]]:
    """Where in its row each document of the next step begins, and its tokens and one more."""
    now = trainer.train_state
    step = trainer.inputs.stream.after(StreamState(now.counters, now.ledger))
    assert step is not None
    length, found, before = step.plan.length, [], (-1, -1, -1)
    for number, token in enumerate(tokens_of(step.blocks)):
        epoch, position, offset = token
        order = KeyedPermutation(trainer.inputs.loader.sequences, sub_seed(0, "order", epoch))
        place = int(order(np.array([position]))[0]) * 64 + offset
        new = (
            before != (epoch, position, offset - 1) or tokens[place - 1] == trainer.inputs.separator
        )
        if new or number % length == 0:
            found.append((number % length, [int(tokens[place])]))
        found[-1][1].append(int(tokens[place + 1]))
        before = token
    return found


@pytest.mark.parametrize("recompute", [False, True])
def test_each_step_is_that_of_its_documents_and_pieces_alone_at_their_places_in_the_row(
    configured: Configure, many: Path, recompute: bool
) -> None:
    trainer = trainer_of(masked(configured, many, run={"recompute": recompute}))
    joined: list[float | None] = []
    for _ in range(3):
        documents, model = cuts(trainer, trainer.store.train), deepcopy(trainer.model)
        count, loss = 0, torch.zeros((), dtype=torch.float64)
        for begin, tokens in documents:
            inputs, targets = torch.tensor([tokens[:-1]]), torch.tensor([tokens[1:]])
            loss, count = (
                loss + model(inputs, targets, torch.tensor([begin])),
                count + len(tokens) - 1,
            )
        torch.autograd.backward(loss / count)
        record = trainer.step()
        assert record is not None
        assert count == 7 * (24, 48, 64)[len(joined)] < 30 * len(documents)
        assert record.loss == pytest.approx(loss.item() / count, rel=1e-10, abs=0)
        ours = gradients(trainer)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-10, atol=1e-10, msg=name)
        joined.append(record.joined)
    assert joined == [0.0, 1.0, 0.0]


def test_micro_batches_take_the_starts_and_the_documents_of_their_own_rows(
    configured: Configure, many: Path
) -> None:
    tables: dict[str, dict[str, Any]] = {
        "model": {"positions": "learned", "positions_start": "spread"},
        "pacing": {"values": [16, 32, 64]},
        "batch": {"rows": 8, "hold": "tokens", "leftovers": "in_place"},
        "budget": {"tokens": 3 * 8 * 64},
    }
    found = []
    for micro_tokens in (64, 192, 512):
        batch = {**tables["batch"], "micro_tokens": micro_tokens}
        trainer = trainer_of(masked(configured, many, **{**tables, "batch": batch}))
        while trainer.step():
            pass
        found.append(trainer.tensors()["model"])
    for name, weights in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(weights, other[name], rtol=1e-10, atol=1e-10, msg=name)


def test_without_a_second_document_in_a_row_the_run_is_that_of_attend_to_the_bit(
    configured: Configure,
) -> None:
    # The tiny store is one document, and what is dropped is joined to nothing.
    found = []
    for documents in ("attend", "mask"):
        config = configured(data={"documents": documents}, batch={"leftovers": "drop"})
        trainer = trainer_of(config)
        while trainer.step():
            pass
        found.append((trainer.tensors()["model"], trainer.evaluate()))
    (attending, before), (masking, after) = found
    assert before is not None
    assert after is not None
    assert before == replace(after, seconds=before.seconds, side_seconds=before.side_seconds)
    assert all(torch.equal(weights, masking[name]) for name, weights in attending.items())


def test_evaluations_read_each_document_alone_as_training_does(
    configured: Configure, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = train(masked(configured, many), tmp_path / "run", quiet=True)
    trainer = trainer_of(masked(configured, many))
    trainer.restore(checkpoint.load_newest(RunPaths(tmp_path / "run").checkpoints)[0])
    store, total = trainer.store, 0.0
    sequences = sequences_in(store.valid, 64, trainer.config.evaluation.tokens)
    for row in fronts(store.valid, range(sequences), 64, 64):
        ends = [0, *(int(place) + 1 for place in (row[:-1] == store.separator).nonzero()), 64]
        for begin, end in pairwise(sorted(set(ends))):
            cut = row[None, begin:end], row[None, begin + 1 : end + 1]
            total += trainer.model(*cut, torch.tensor([begin])).item()
    assert summary.validation_loss == pytest.approx(total / (64 * sequences), rel=1e-10)
    run = ["eval", str(tmp_path / "run"), "--tasks", "valid", "--limit", str(sequences)]
    assert main([*run, "--precision", "fp64"]) == 0
    capsys.readouterr()
    (result,) = read(RunPaths(tmp_path / "run").evaluations)
    assert dict(result.outcome.settings)["documents"] == "mask"  # whose figures stand apart
    assert result.outcome.measures[0].value == pytest.approx(summary.validation_loss, rel=1e-10)
