"""Runs on a GPU that stop: what was saved resumes to the bit there, and elsewhere to rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import list_checkpoints, name_of
from lengthen.cli.main import main
from lengthen.config.schema import Config
from lengthen.exchange.export import export
from lengthen.exchange.pretrained import read
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.start import resume, train
from lengthen.training.trainer import Trainer
from lengthen.util.errors import UnstableError
from tests.conftest import AskFor, Configure
from tests.gpu.conftest import TrainerOn

pytestmark = pytest.mark.gpu

CASES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"run": {"precision": "bf16"}},
    "dropout": {"model": {"dropout": 0.2}},
    "recomputed": {"run": {"recompute": True}},
    "saved in the background": {"saving": {"asynchronous": True}},
}
SHORT = {"tokens": 4_000}


def restored(run: Path, name: str, trainer: Trainer) -> Trainer:
    trainer.restore(checkpoint.load_step(RunPaths(run).checkpoints, name))
    return trainer


@pytest.mark.usefixtures("same_bits")
@pytest.mark.parametrize("name", CASES)
def test_every_step_from_its_checkpoint_is_the_unbroken_step(
    on_device: Configure, trainer_on: TrainerOn, tmp_path: Path, name: str
) -> None:
    config = on_device(budget=SHORT, **CASES[name])
    train(config, tmp_path / "run", quiet=True)
    names = [path.name for path in list_checkpoints(RunPaths(tmp_path / "run").checkpoints)[::-1]]
    assert len(names) > 8
    for before, after in [(0, 1), (4, 5), (-2, -1)]:
        trainer = restored(tmp_path / "run", names[before], trainer_on(config))
        trainer.step()
        saved = checkpoint.load_step(RunPaths(tmp_path / "run").checkpoints, names[after])
        assert trainer.state_dict()["ledger"] == saved.state["ledger"]
        for group, tensors in trainer.tensors().items():
            assert set(tensors) == set(saved.tensors[group])
            for key, tensor in tensors.items():
                assert torch.equal(tensor.cpu(), saved.tensors[group][key]), key


def evaluated(run: Path) -> list[float]:
    return [line.loss or 0.0 for line in read_metrics(RunPaths(run).metrics).evaluations]


def test_without_equal_bits_a_resumed_run_parts_by_rounding_alone(
    on_device: Configure, tmp_path: Path
) -> None:
    config = on_device(budget=SHORT)
    train(config, tmp_path / "whole", quiet=True)
    train(config, tmp_path / "run", quiet=True)
    resume(tmp_path / "run", checkpoint=name_of(5), quiet=True)
    assert evaluated(tmp_path / "run") == pytest.approx(evaluated(tmp_path / "whole"), rel=1e-3)


def test_a_checkpoint_goes_on_on_a_processor_and_back(
    on_device: Configure, trainer_on: TrainerOn, device: torch.device, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(on_device(budget=SHORT), run, quiet=True)
    assert main(["verify", str(run)]) == 0
    for where, tokens in (("cpu", 6_000), (device.type, 8_000)):
        overrides = {"run": {"device": where}, "budget": {"tokens": tokens}}
        resume(run, settings=overrides, quiet=True)
    text = RunPaths(run).metrics.read_text()
    assert ("device was cuda, is cpu" in text) == (device.type == "cuda")
    newest = list_checkpoints(RunPaths(run).checkpoints)[0].name
    config = on_device()
    losses = [restored(run, newest, trainer_on(config, where)).evaluate() for where in ("", "cpu")]
    here, there = (record.loss for record in losses if record is not None)
    assert here == pytest.approx(there, rel=1e-5)
    assert here == pytest.approx(evaluated(run)[-1], rel=1e-5)


def test_an_export_is_the_model_that_was_trained(
    on_device: Configure, trainer_on: TrainerOn, device: torch.device, tmp_path: Path
) -> None:
    train(on_device(budget=SHORT), tmp_path / "run", quiet=True)
    export(tmp_path / "run", tmp_path / "hf")
    newest = list_checkpoints(RunPaths(tmp_path / "run").checkpoints)[0].name
    model = restored(tmp_path / "run", newest, trainer_on(on_device())).model.eval()
    tokens = torch.arange(64)[None] % 257
    with torch.no_grad():
        here = model.logits(tokens.to(device)).cpu()
        there = read(tmp_path / "hf").gpt().logits(tokens)
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
    assert main(["sample", str(tmp_path / "run"), "--tokens", "5"]) == 0


def poisoned(config: Config, run: Path, ask_for: AskFor, passed: int) -> None:
    """Train, where the step after `passed` others loses its loss."""
    ask_for(f"step:{passed + 1}:nan")
    train(config, run, quiet=True)


def test_f32_a_run_stops_at_a_step_that_is_not_finite_and_can_continue_past_it(
    on_device: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    run, message = (
        tmp_path / "run",
        r"step 5 .*weights are untouched; resume from step-00000004",
    )
    with pytest.raises(UnstableError, match=message):
        poisoned(on_device(budget=SHORT), run, ask_for, 4)
    ask_for("")
    resume(run, quiet=True)
    assert all(line.finite for line in read_metrics(RunPaths(run).metrics).steps)


def test_f32_a_run_skips_a_step_that_is_not_finite_where_it_is_told_to(
    on_device: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    run = tmp_path / "run"
    poisoned(on_device(budget=SHORT, run={"on_nonfinite": "skip"}), run, ask_for, 4)
    metrics = read_metrics(RunPaths(run).metrics)
    assert [line.step for line in metrics.events if line.name == "skipped"] == [5]
    saved = [checkpoint.load_step(RunPaths(run).checkpoints, name_of(n)) for n in (4, 5)]
    for name, tensor in saved[0].tensors["optimizer"].items():
        assert torch.equal(saved[1].tensors["optimizer"][name], tensor)
