"""Models are evaluated on a GPU as on a processor."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lengthen.cli.main import main
from lengthen.distributed.context import DistributedContext
from lengthen.evaluation.generate import generate
from lengthen.evaluation.models import EvalModel
from lengthen.evaluation.scoring import requests_of, score
from lengthen.training.start import train
from tests.conftest import Configure
from tests.evaluation.made import tiny_model

pytestmark = pytest.mark.gpu

SHOTS = "one and one is two; two and two is four; "  # all questions begin with them
PAIRS = [
    *((SHOTS + question, answer) for question in ("three", "seven") for answer in ("a", "bc", "d")),
    ("", "no context"),
    ("a context that is much too long for the tiny model, so that its left end goes", "xy"),
]


def both(device: torch.device, micro_tokens: int) -> tuple[EvalModel, EvalModel]:
    """The same model on the device and on a processor, in double precision."""
    here, there = (tiny_model(micro_tokens) for _ in range(2))
    return replace(here, gpt=here.gpt.to(device), context=DistributedContext(device, "fp64")), there


@pytest.mark.parametrize("micro_tokens", [64, 512])
def test_continuations_have_the_same_scores(device: torch.device, micro_tokens: int) -> None:
    here, there = (
        score(model, requests_of(model.text, PAIRS)) for model in both(device, micro_tokens)
    )
    for mine, other in zip(here, there, strict=True):
        assert mine.loss == pytest.approx(other.loss, rel=1e-9)
        assert (mine.greedy, mine.tokens) == (other.greedy, other.tokens)


def test_greedy_answers_are_the_same(device: torch.device) -> None:
    here, there = (
        generate(
            model,
            [tuple(request.context) for request in requests_of(model.text, PAIRS[:4])],
            stops=[],
            limit=6,
        )
        for model in both(device, 512)
    )
    assert here == there


def test_eval_reads_a_run_that_was_trained_there(on_device: Configure, tmp_path: Path) -> None:
    train(on_device(budget={"tokens": 2_000}), tmp_path / "run", quiet=True)
    assert main(["eval", str(tmp_path / "run"), "--tasks", "valid", "--limit", "4"]) == 0
