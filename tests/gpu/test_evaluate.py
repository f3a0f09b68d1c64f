"""Models judged on a GPU are judged as on a processor."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lengthen.cli.main import main
from lengthen.distributed.context import DistributedContext
from lengthen.evaluation.generate import generate
from lengthen.evaluation.model import Subject
from lengthen.evaluation.requests import requests_of
from lengthen.evaluation.scoring import score
from lengthen.training.start import train
from tests.conftest import Configure
from tests.evaluation.made import tiny_subject

pytestmark = pytest.mark.gpu

SHOTS = "one and one is two; two and two is four; "  # long enough to be read ahead, once
PAIRS = [
    *((SHOTS + question, answer) for question in ("three", "seven") for answer in ("a", "bc", "d")),
    ("", "no context"),
    ("a context that is much too long for the tiny model, so that its left end goes", "xy"),
]


def both(device: torch.device, pass_tokens: int) -> tuple[Subject, Subject]:
    """The same model on the device and on a processor, in double precision."""
    here, there = (tiny_subject(pass_tokens) for _ in range(2))
    return replace(
        here, model=here.model.to(device), place=DistributedContext(device, "fp64")
    ), there


@pytest.mark.parametrize("pass_tokens", [64, 512])
def test_continuations_have_the_same_scores(device: torch.device, pass_tokens: int) -> None:
    here, there = (
        score(subject, requests_of(subject.text, PAIRS)) for subject in both(device, pass_tokens)
    )
    for mine, other in zip(here, there, strict=True):
        assert mine.loss == pytest.approx(other.loss, rel=1e-9)
        assert (mine.greedy, mine.tokens) == (other.greedy, other.tokens)


def test_greedy_answers_are_the_same(device: torch.device) -> None:
    here, there = (
        generate(
            subject,
            [tuple(request.context) for request in requests_of(subject.text, PAIRS[:4])],
            stops=[],
            most=6,
        )
        for subject in both(device, 512)
    )
    assert here == there


def test_eval_reads_a_run_that_was_trained_there(on_device: Configure, tmp_path: Path) -> None:
    train(on_device(budget={"tokens": 2_000}), tmp_path / "run", quiet=True)
    assert main(["eval", str(tmp_path / "run"), "--tasks", "valid", "--limit", "4"]) == 0
