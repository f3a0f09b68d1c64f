"""An export is whole or not there, has its facts, and takes nobody's place."""

import errno
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from lengthen.checkpoint.verify import list_checkpoints
from lengthen.exchange.export import NAMES, export
from lengthen.exchange.pretrained import read
from lengthen.run.metrics import read_metrics
from lengthen.training.start import resume, train
from lengthen.util.disk import Disk
from lengthen.util.errors import (
    CheckpointError,
    SettingError,
    StorageError,
)
from tests.conftest import Configure
from tests.exchange.made import (
    TINY,
    assert_same,
    contents,
    random_weights,
    saved_run,
)


def test_an_export_has_six_files_and_a_card_with_the_facts(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(budget={"tokens": 3000})
    train(config, tmp_path / "run", quiet=True)
    name, notes = export(tmp_path / "run", tmp_path / "hf")
    assert {path.name for path in (tmp_path / "hf").iterdir()} == NAMES
    evaluations = read_metrics(tmp_path / "run/metrics.jsonl").evaluations
    text = (tmp_path / "hf/README.md").read_text(encoding="utf-8")
    step = int(name.removeprefix("step-"))
    for fact in (
        f"| steps | {step:,} |",
        f"| trained tokens | {evaluations[-1].tokens:,} |",
        f"| final validation loss | {evaluations[-1].loss:.4f} nats per token, at full length",
        "| pacing | kind linear, start 8, end 64, duration 12, multiple 8 |",
        f"torch {version('torch')}",
        "learning_rate = 0.01",
        "Licence",
    ):
        assert fact in text
    assert not notes
    # Where the store lies is nobody's business, and nor is this machine.
    assert str(config.data.path) not in text


def test_an_older_checkpoint_is_exported_with_its_own_loss(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(budget={"tokens": 3000}), tmp_path / "run", quiet=True)
    assert (
        export(tmp_path / "run", tmp_path / "hf", checkpoint="step-00000006")[0] == "step-00000006"
    )
    text = (tmp_path / "hf/README.md").read_text(encoding="utf-8")
    assert "| steps | 6 |" in text
    assert "after step 5 |" in text
    with pytest.raises(CheckpointError, match="not in"):
        export(tmp_path / "run", tmp_path / "other", checkpoint="step-00000999")
    assert not (tmp_path / "other").exists()


def test_an_older_checkpoint_is_exported_with_the_settings_that_it_was_trained_with(
    configured: Configure, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(configured(budget={"tokens": 1500}), run, quiet=True)
    older = list_checkpoints(run / "checkpoints")[0].name
    overrides = {"budget": {"tokens": 2500}, "optimizer": {"learning_rate": 5e-3}}
    resume(run, settings=overrides, quiet=True)
    for name, rate in ((older, "0.01"), (None, "0.005")):
        export(run, tmp_path / f"hf{name}", checkpoint=name)
        text = (tmp_path / f"hf{name}/README.md").read_text(encoding="utf-8")
        assert f"| peak learning rate | {rate} |" in text
        assert f"learning_rate = {rate}\n" in text
        assert f"tokens = {1500 if name else 2500}\n" in text


def test_a_damaged_checkpoint_is_passed_over_and_named(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(budget={"tokens": 1000}), tmp_path / "run", quiet=True)
    newest, older = list_checkpoints(tmp_path / "run/checkpoints")[:2]
    (newest / "model.safetensors").write_bytes(b"")
    name, notes = export(tmp_path / "run", tmp_path / "hf")
    assert name == older.name
    assert newest.name in notes[0]


def test_a_card_has_the_numbers_of_a_staged_pacing(tmp_path: Path, configured: Configure) -> None:
    pacing = {"kind": "staged", "values": [8, 16], "boundaries": [2]}
    train(configured(pacing=pacing, budget={"tokens": 200}), tmp_path / "run", quiet=True)
    export(tmp_path / "run", tmp_path / "hf")
    text = (tmp_path / "hf/README.md").read_text(encoding="utf-8")
    assert "| pacing | kind staged, values (8, 16), boundaries (2) |" in text


@pytest.mark.parametrize("strange", ["x|y", "a\n# b", "<script>", "\x1b[31m"])
def test_a_runs_name_cannot_leave_its_place_in_the_card(tmp_path: Path, strange: str) -> None:
    export(saved_run(tmp_path / strange.replace("/", ""), TINY), tmp_path / "hf")
    text = (tmp_path / "hf/README.md").read_text(encoding="utf-8")
    assert strange not in text
    assert text.count("\n# ") == 1


def test_an_old_export_is_replaced_only_when_asked(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    other = saved_run(tmp_path / "other", TINY, seed=1)
    with pytest.raises(SettingError, match="--out: must be a new or empty directory.*--overwrite"):
        export(other, folder)
    assert contents(folder) == before
    export(other, folder, overwrite=True)
    assert_same(read(other), read(folder))


def test_a_folder_that_holds_anything_else_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    export(tmp_path / "run", tmp_path / "whole")
    (tmp_path / "link").symlink_to(tmp_path / "whole", target_is_directory=True)
    (folder / "LICENSE").write_text("mine", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    before = contents(tmp_path)
    for out in (folder, tmp_path / "link", tmp_path / "file", tmp_path / "run"):
        with pytest.raises(SettingError, match="--out"):
            export(tmp_path / "run", out, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_fault_at_every_single_operation_leaves_a_whole_export_or_none(
    tmp_path: Path, overwrite: bool
) -> None:
    runs = [saved_run(tmp_path / f"run{seed}", TINY, seed=seed) for seed in (0, 1)]
    whole = [read(run).weights["tokens.weight"] for run in runs]
    for fault in range(1, 100):
        out = tmp_path / f"out{fault}" / "hf"
        if overwrite:
            export(runs[0], out)

        def fail(number: int, name: str, path: Path, at: int = fault) -> None:
            if number == at:
                raise OSError(errno.ENOSPC, "full")

        disk = Disk(before=fail)
        try:
            export(runs[1], out, overwrite=overwrite, disk=disk)
        except StorageError:
            if out.exists():
                found = read(out).weights["tokens.weight"]
                assert any(torch.equal(found, one) for one in whole)
            else:
                assert not overwrite
                assert not list(tmp_path.glob(f"out{fault}/*"))
        else:
            break
    assert fault > 10
    assert torch.equal(read(out).weights["tokens.weight"], whole[1])
    assert [path.name for path in out.parent.iterdir()] == ["hf"]


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    weights = random_weights({**TINY, "layers": 1})
    run = saved_run(tmp_path / "run", TINY, weights=weights)
    with pytest.raises(SettingError, match="step-00000003 lacks blocks.1"):
        export(run, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("switch", "rule"),
    [
        ({"positions": "rope"}, 'model.positions: must be "learned" for GPT-2, .*, got .rope.'),
        ({"norm": "rms"}, 'model.norm: must be "layer" for GPT-2, .*, got .rms.'),
        ({"bias": False}, "model.bias: must be true for GPT-2, .*, got False"),
        ({"mlp": "swiglu"}, 'model.mlp: must be "gelu" for GPT-2, .*, got .swiglu.'),
        ({"kv_heads": 1}, "model.kv_heads: must not be set for GPT-2, .*, got 1"),
        ({"qk_norm": True}, "model.qk_norm: must be false for GPT-2, .*, got True"),
    ],
)
def test_a_model_that_is_no_gpt2_is_refused_in_a_line(
    tmp_path: Path, switch: dict[str, object], rule: str
) -> None:
    run = saved_run(tmp_path / "run", {**TINY, **switch})
    with pytest.raises(SettingError, match=f"^{rule}$"):
        export(run, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
