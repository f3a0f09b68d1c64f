"""Scores are those of a model that reads each request by itself, whatever is read together."""

import math
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthen.distributed.context import DistributedContext
from lengthen.evaluation.model import Subject
from lengthen.evaluation.packing import LEAST_HEADER
from lengthen.evaluation.requests import Request
from lengthen.evaluation.scoring import Score, score
from tests.evaluation.made import tiny_subject

SUBJECT = tiny_subject(length=96)
LENGTH = SUBJECT.model.length
few = st.integers(0, 2)  # so that much is alike by chance
texts = st.lists(few, min_size=1, max_size=24).map(tuple)
requests = st.builds(Request, texts, texts)
# None, one that is read ahead of all, and two with which some and all contexts are cut.
headers = st.sampled_from(
    [(), *((1, 0, 2) * (n // 3 + 1) for n in (LEAST_HEADER, LENGTH - 24, LENGTH))]
)


@torch.no_grad()
def alone(request: Request, subject: Subject = SUBJECT) -> Score:
    """The definition: one row, all logits, the sum over the continuation."""
    text = torch.tensor(request.context + request.continuation)[-subject.model.length - 1 :]
    count = len(request.continuation)
    log_p = subject.model.logits(text[None, :-1])[0, -count:].log_softmax(dim=1)
    targets = text[-count:]
    loss = -float(log_p.gather(1, targets[:, None]).sum())
    return Score(loss, bool((log_p.argmax(dim=1) == targets).all()), count)


def same(found: Score, wanted: Score, tolerance: float = 1e-10) -> bool:
    near = math.isclose(found.loss, wanted.loss, rel_tol=tolerance, abs_tol=tolerance)
    return near and (found.greedy, found.tokens) == (wanted.greedy, wanted.tokens)


@settings(max_examples=60)
@given(headers, st.lists(requests, max_size=12), st.integers(1, 400))
def test_a_score_is_that_of_the_request_alone(
    header: tuple[int, ...], asked: list[Request], pass_tokens: int
) -> None:
    asked = [replace(each, context=header + each.context) for each in asked]
    found = score(replace(SUBJECT, pass_tokens=pass_tokens), asked)
    assert all(same(one, alone(each)) for one, each in zip(found, asked, strict=True))


@settings(max_examples=40)
@given(st.lists(requests, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_order_and_company_change_nothing(asked: list[Request], random: Random) -> None:
    order = list(range(len(asked)))
    random.shuffle(order)
    found = score(SUBJECT, asked)
    shuffled = score(SUBJECT, [asked[number] for number in order])
    assert all(same(shuffled[place], found[number]) for place, number in enumerate(order))


def test_the_same_requests_give_the_same_bits() -> None:
    asked = [Request((1, 2, each), (each, 3)) for each in range(40)]
    assert score(SUBJECT, asked) == score(SUBJECT, asked)


def test_the_likeliest_continuation_is_greedy_and_no_other_is() -> None:
    text = [7]
    for _ in range(5):
        text.append(int(SUBJECT.model.logits(torch.tensor([text]))[0, -1].argmax()))
    likeliest = Request((7,), tuple(text[1:]))
    missed = Request((7,), (*text[1:5], (text[5] + 1) % 257))
    assert [each.greedy for each in score(SUBJECT, [likeliest, missed])] == [True, False]


def test_a_context_that_is_too_long_loses_its_left_end() -> None:
    kept = Request((5,) * LENGTH, (1,))
    cut = Request((9, 9, *kept.context), (1,))
    assert [each.is_cut(LENGTH) for each in (kept, cut)] == [False, True]
    left, right = score(SUBJECT, [kept, cut])
    assert same(left, right)


def test_a_continuation_as_long_as_the_model_fits_and_a_longer_one_does_not() -> None:
    fits = Request((1,), (2,) * LENGTH)
    assert fits.fits(LENGTH)
    assert same(score(SUBJECT, [fits])[0], alone(fits))
    with pytest.raises(AssertionError):
        score(SUBJECT, [Request((1,), (2,) * (LENGTH + 1))])


def test_single_precision_differs_by_rounding_alone() -> None:
    asked = [Request(tuple(range(each + 1)), (each, 8)) for each in range(30)]
    wanted = score(SUBJECT, asked)
    model = tiny_subject(length=96).model.float()
    found = score(
        replace(SUBJECT, model=model, place=DistributedContext(torch.device("cpu"))), asked
    )
    assert all(same(one, other, 1e-5) for one, other in zip(found, wanted, strict=True))


def test_half_precision_gives_scores_too() -> None:
    place = DistributedContext(torch.device("cpu"), "bf16")
    asked = [Request((1, 2, 3) * 12, (each, 8)) for each in range(30)]
    low = score(replace(SUBJECT, model=tiny_subject(length=96).model.float(), place=place), asked)
    pairs = zip(low, score(SUBJECT, asked), strict=True)
    assert all(math.isclose(one.loss, other.loss, abs_tol=0.5) for one, other in pairs)


def test_nothing_asked_is_nothing_scored() -> None:
    assert score(SUBJECT, []) == []


def test_progress_has_the_name_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    score(SUBJECT, [Request((1,), (2,))], "some task")
    assert "1 of 1 continuations" in capsys.readouterr().err
    score(SUBJECT, [Request((1,), (2,))])
    assert capsys.readouterr().err == ""
