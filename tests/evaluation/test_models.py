"""What a command names: runs, checkpoints and Transformers folders, and where their results go."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from lengthen.evaluation.models import NamedModel, find_models, load
from lengthen.exchange.export import export
from lengthen.util.errors import SettingError
from tests.exchange.made import TINY, random_weights, saved_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in `run`, another in `more/run`, and an export in `hf`."""
    folder = tmp_path_factory.mktemp("named")
    saved_run(folder / "run", TINY)
    saved_run(folder / "more/run", TINY, seed=1)
    export(folder / "run", folder / "hf")
    return folder


def one(path: Path, out: Path | None = None) -> NamedModel:
    (found,) = find_models([path], out)
    return found


def test_a_run_keeps_its_own_results(made: Path) -> None:
    found = one(made / "run")
    assert (found.name, found.checkpoint, found.label) == ("run", None, None)
    assert found.results == made / "run/evaluations.json"


def test_so_does_a_checkpoint_of_it(made: Path) -> None:
    found = one(made / "run/checkpoints/step-00000003")
    assert (found.name, found.checkpoint) == ("run/step-00000003", "step-00000003")
    assert found.results == made / "run/evaluations.json"


def test_results_of_a_folder_lie_beside_it_so_that_it_stays_as_it_is(made: Path) -> None:
    found = one(made / "hf")
    assert (found.name, found.run) == ("hf", None)
    assert found.results == made / "hf.evaluations.json"


def test_a_file_that_is_named_takes_all_under_the_names_of_the_models(made: Path) -> None:
    out = made / "all.json"
    found = find_models([made / "run", made / "hf"], out)
    assert [(model.results, model.label) for model in found] == [(out, "run"), (out, "hf")]


def test_models_of_one_name_are_told_apart_by_their_paths(made: Path) -> None:
    paths = [made / "run", made / "more/run", made / "hf"]
    assert [model.name for model in find_models(paths, None)] == [
        str(paths[0]),
        str(paths[1]),
        "hf",
    ]


def test_nothing_is_written_into_a_cache_of_the_hub(made: Path) -> None:
    cached = made / "models--gpt2/snapshots/0a1b"
    shutil.copytree(made / "hf", cached)
    with pytest.raises(SettingError, match="--out: must name a file .* is in a hub's cache"):
        find_models([cached], None)
    assert one(cached, made / "gpt2.json").results == made / "gpt2.json"


def test_a_place_that_cannot_be_written_is_refused_ahead_of_the_work(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingError, match="--out: must name a file .* nothing can be written"):
        find_models([made / "run"], None)


@pytest.mark.parametrize("path", ["nothing", "more", "run/checkpoints", "run/config.toml"])
def test_what_is_no_model_is_refused(made: Path, path: str) -> None:
    with pytest.raises(SettingError, match="RUN: must be a run, a checkpoint of one, or a Trans"):
        find_models([made / path], None)


@pytest.mark.parametrize("out", ["run", "nothing/file.json"])
def test_a_file_that_cannot_be_written_is_refused(made: Path, out: str) -> None:
    with pytest.raises(SettingError, match="--out: must be a file in a directory that exists"):
        find_models([made / "run"], made / out)


def test_a_run_a_checkpoint_and_an_export_are_the_same_model(made: Path) -> None:
    paths = [made / "run", made / "run/checkpoints/step-00000003", made / "hf"]
    loaded = [load(model, None) for model in find_models(paths, None)]
    assert [one.step for one in loaded] == [3, 3, None]
    first = loaded[0].gpt.tokens.weight
    assert all(torch.equal(one.gpt.tokens.weight, first) for one in loaded)


def test_weights_are_float32_unless_they_are_stored_in_float64(tmp_path: Path) -> None:
    doubles = {name: tensor.double() for name, tensor in random_weights(TINY).items()}
    saved_run(tmp_path / "double", TINY, weights=doubles)
    saved_run(tmp_path / "single", TINY)
    precisions = {
        (name, wanted): load(one(tmp_path / name), wanted).context.precision
        for name in ("double", "single")
        for wanted in (None, "fp64", "bf16")
    }
    assert precisions == {
        ("double", None): "fp64",
        ("double", "fp64"): "fp64",
        ("double", "bf16"): "bf16",
        ("single", None): "fp32",
        ("single", "fp64"): "fp64",
        ("single", "bf16"): "bf16",
    }
