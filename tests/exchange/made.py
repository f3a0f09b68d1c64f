"""What tests of the exchange are made of: runs without training, and spoiled folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lengthen.checkpoint.read import Tensors
from lengthen.checkpoint.write import write_checkpoint
from lengthen.config.load import build
from lengthen.core.shuffle import sub_seed
from lengthen.data.tokenizer import resolve
from lengthen.exchange.layout import parameter_shapes
from lengthen.exchange.pretrained import Pretrained
from lengthen.run.directory import RunPaths
from lengthen.util.disk import Disk

TINY = {"layers": 2, "width": 8, "heads": 2, "length": 16, "vocabulary": 257}


def random_weights(model: dict[str, Any], seed: int = 0) -> Tensors:
    """Every parameter drawn, biases and gains too, so that no two could be swapped unseen."""
    generator = torch.Generator().manual_seed(sub_seed(seed, "test"))
    shapes = parameter_shapes(model_of(model))
    return {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}


def model_of(model: dict[str, Any]) -> Any:
    return build(tables(model)).model


def tables(model: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "pacing": {"kind": "constant"},
        "batch": {"rows": 1},
        "optimizer": {"learning_rate": 1e-3},
        "budget": {"tokens": "1M"},
    }


def saved_run(
    folder: Path, model: dict[str, Any], *, seed: int = 0, weights: Tensors | None = None
) -> Path:
    """A run of any shape with random weights, without the time to train it."""
    paths = RunPaths(folder)
    state = {"counters": {"step": 3, "tokens": 48}}
    folder.mkdir(parents=True, exist_ok=True)
    groups = {"model": weights or random_weights(model, seed), "optimizer": {}}
    write_checkpoint(Disk(), paths.checkpoints, 3, groups, state)
    paths.config.write_text(build(tables(model)).to_toml(), encoding="utf-8")
    paths.tokenizer.write_text(resolve("bytes").tokenizer.to_str(), encoding="utf-8")
    return folder


def assert_same(before: Pretrained, after: Pretrained) -> None:
    assert after.shape == before.shape
    assert after.text.files() == before.text.files()
    assert after.weights.keys() == before.weights.keys()
    for name, tensor in before.weights.items():
        assert torch.equal(after.weights[name], tensor), name
        assert after.weights[name].is_contiguous()


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    file = folder / "model.safetensors"
    save_file({n: t.contiguous() for n, t in change(load_file(file)).items()}, file)
    return folder


def configured_as(folder: Path, **values: object) -> Path:
    described = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**described, **values}), encoding="utf-8")
    return folder


def sharded(folder: Path) -> Path:
    """The same weights in two files and an index."""
    weights = load_file(folder / "model.safetensors")
    halves = sorted(weights)[::2], sorted(weights)[1::2]
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for file, names in zip(files, halves, strict=True):
        save_file({name: weights[name] for name in names}, folder / file)
    places = {name: file for file, names in zip(files, halves, strict=True) for name in names}
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    (folder / "model.safetensors").unlink()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
