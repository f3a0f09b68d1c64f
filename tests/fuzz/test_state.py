"""The state.json of a checkpoint, under a manifest that believes it."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.train_state import log_size
from lengthen.checkpoint.verify import list_checkpoints
from lengthen.config.load import load
from lengthen.exchange.card import card
from lengthen.exchange.pretrained import read_run
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import cut_metrics
from lengthen.training.trainer import Trainer
from lengthen.util.disk import Disk
from tests.conftest import trainer_of
from tests.fuzz.law import held
from tests.fuzz.spoiled import json_near
from tests.fuzz.test_safetensors import seal_anew


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    """The run with its newest checkpoint alone."""
    copied = Path(shutil.copytree(run, tmp_path_factory.mktemp("state") / "run"))
    for older in list_checkpoints(copied / "checkpoints")[1:]:
        shutil.rmtree(older)
    return copied


@pytest.fixture(scope="module")
def trainer(copied: Path) -> Trainer:
    return trainer_of(load(str(copied / "config.toml"))[0])


@given(data=st.data())
def test_a_state(copied: Path, run: Path, trainer: Trainer, data: st.DataObject) -> None:
    paths = RunPaths(copied)
    (path,) = list_checkpoints(paths.checkpoints)
    good = json.loads((run / "checkpoints" / path.name / "state.json").read_bytes())
    (path / "state.json").write_bytes(data.draw(json_near(good)))
    seal_anew(path)

    def use() -> None:
        found, _ = checkpoint.load_newest(paths.checkpoints)
        trainer.restore(found)
        trainer.step()
        config = load(str(paths.config))[0]
        card(paths, config, found, read_run(paths, config, found).shape)
        cut_metrics(Disk(), paths, log_size(found.state))

    held("state.json", use, inside=copied)
