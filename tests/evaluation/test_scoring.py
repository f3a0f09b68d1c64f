"""Scores are those of a model that reads each request by itself, whatever is read together."""

import math
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from lengthen.data.tokenizer import resolve
from lengthen.data.tokenizer_files import TextTokenizer
from lengthen.distributed.context import DistributedContext
from lengthen.evaluation.models import EvalModel
from lengthen.evaluation.packing import Request
from lengthen.evaluation.scoring import (
    Score,
    requests_of,
    score,
    score_windows,
    windows,
)
from lengthen.util.errors import DataError
from tests.evaluation.made import tiny_model

MODEL = tiny_model(length=96)
LENGTH = MODEL.length
few = st.integers(0, 2)  # so that much is alike by chance
texts = st.lists(few, min_size=1, max_size=24).map(tuple)
requests = st.builds(Request, texts, texts)
# None, and two with which some and all contexts are cut.
headers = st.sampled_from([(), *((1, 0, 2) * (n // 3 + 1) for n in (LENGTH - 24, LENGTH))])


@torch.no_grad()
def alone(request: Request, model: EvalModel = MODEL) -> Score:
    """The definition: one row, all logits, the sum over the continuation."""
    text = torch.tensor(request.context + request.continuation)[-model.length - 1 :]
    count = len(request.continuation)
    log_p = model.gpt.logits(text[None, :-1])[0, -count:].log_softmax(dim=1)
    targets = text[-count:]
    loss = -float(log_p.gather(1, targets[:, None]).sum())
    return Score(loss, bool((log_p.argmax(dim=1) == targets).all()), count)


def same(found: Score, wanted: Score, tolerance: float = 1e-10) -> bool:
    near = math.isclose(found.loss, wanted.loss, rel_tol=tolerance, abs_tol=tolerance)
    return near and (found.greedy, found.tokens) == (wanted.greedy, wanted.tokens)


@settings(max_examples=60)
@given(headers, st.lists(requests, max_size=12), st.integers(1, 400))
def test_a_score_is_that_of_the_request_alone(
    header: tuple[int, ...], asked: list[Request], micro_tokens: int
) -> None:
    asked = [replace(each, context=header + each.context) for each in asked]
    found = score(replace(MODEL, micro_tokens=micro_tokens), asked)
    assert all(same(one, alone(each)) for one, each in zip(found, asked, strict=True))


@settings(max_examples=40)
@given(st.lists(requests, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_order_and_company_change_nothing(asked: list[Request], random: Random) -> None:
    order = list(range(len(asked)))
    random.shuffle(order)
    found = score(MODEL, asked)
    shuffled = score(MODEL, [asked[number] for number in order])
    assert all(same(shuffled[place], found[number]) for place, number in enumerate(order))


def test_the_same_requests_give_the_same_bits() -> None:
    asked = [Request((1, 2, each), (each, 3)) for each in range(40)]
    assert score(MODEL, asked) == score(MODEL, asked)


def test_the_likeliest_continuation_is_greedy_and_no_other_is() -> None:
    text = [7]
    for _ in range(5):
        text.append(int(MODEL.gpt.logits(torch.tensor([text]))[0, -1].argmax()))
    likeliest = Request((7,), tuple(text[1:]))
    missed = Request((7,), (*text[1:5], (text[5] + 1) % 257))
    assert [each.greedy for each in score(MODEL, [likeliest, missed])] == [True, False]


def test_a_context_that_is_too_long_loses_its_left_end() -> None:
    kept = Request((5,) * LENGTH, (1,))
    cut = Request((9, 9, *kept.context), (1,))
    assert [each.is_truncated(LENGTH) for each in (kept, cut)] == [False, True]
    left, right = score(MODEL, [kept, cut])
    assert same(left, right)


def test_a_continuation_as_long_as_the_model_fits_and_a_longer_one_does_not() -> None:
    fits = Request((1,), (2,) * LENGTH)
    assert fits.fits(LENGTH)
    assert same(score(MODEL, [fits])[0], alone(fits))
    with pytest.raises(AssertionError):
        score(MODEL, [Request((1,), (2,) * (LENGTH + 1))])


def test_single_precision_differs_by_rounding_alone() -> None:
    asked = [Request(tuple(range(each + 1)), (each, 8)) for each in range(30)]
    wanted = score(MODEL, asked)
    gpt = tiny_model(length=96).gpt.float()
    found = score(replace(MODEL, gpt=gpt, context=DistributedContext(torch.device("cpu"))), asked)
    assert all(same(one, other, 1e-5) for one, other in zip(found, wanted, strict=True))


def test_half_precision_gives_scores_too() -> None:
    context = DistributedContext(torch.device("cpu"), "bf16")
    asked = [Request((1, 2, 3) * 12, (each, 8)) for each in range(30)]
    low = score(replace(MODEL, gpt=tiny_model(length=96).gpt.float(), context=context), asked)
    pairs = zip(low, score(MODEL, asked), strict=True)
    assert all(math.isclose(one.loss, other.loss, abs_tol=0.5) for one, other in pairs)


def test_nothing_asked_is_nothing_scored() -> None:
    assert score(MODEL, []) == []


def test_progress_has_the_name_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    score(MODEL, [Request((1,), (2,))], "some task")
    assert "1 of 1 continuations" in capsys.readouterr().err
    score(MODEL, [Request((1,), (2,))])
    assert capsys.readouterr().err == ""


# Texts to requests

BYTES = resolve("bytes")


def test_the_continuation_is_what_follows_the_context() -> None:
    (found,) = requests_of(BYTES, [("ab", " c")])
    assert found == Request(tuple(b"ab"), tuple(b" c"))


def test_spaces_that_end_a_context_belong_to_the_continuation() -> None:
    (found,) = requests_of(BYTES, [("ab \n", "c")])
    assert found == Request(tuple(b"ab"), tuple(b" \nc"))


def test_an_empty_context_is_the_separator() -> None:
    found = requests_of(BYTES, [("", "c"), ("  ", "c")])
    assert [each.context for each in found] == [(256,), (256,)]
    assert found[1].continuation == tuple(b"  c")


def test_a_continuation_without_a_token_is_one_line() -> None:
    plain = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(DataError, match="'b' has no token of its own after its context"):
        requests_of(TextTokenizer(plain, 0), [("a", "b")])


def test_a_continuation_that_changes_the_tokens_of_its_context_is_marked() -> None:
    # The bracket is in a token with the one before it: the mark after it is all that is scored.
    plain = Tokenizer(models.BPE({"(": 0, ")": 1, "()": 2, "]": 3, ";": 4}, [("(", ")")]))
    found = requests_of(TextTokenizer(plain, 4), [("(", ");"), ("(", "];"), ("", ");")])
    assert found == [
        Request((0,), (4,), is_joined=True),
        Request((0,), (3, 4)),
        Request((4,), (1, 4)),
    ]


def test_no_texts_are_no_requests() -> None:
    assert requests_of(BYTES, []) == []


# Windows over a text

TEXT = tuple((7 * n * n + 3 * n) % 257 for n in range(300))


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    """A text whose tokens tell their places, a full length, a stride."""
    length = draw(st.integers(1, 40))
    return tuple(range(draw(st.integers(1, 200)))), length, draw(st.integers(1, length))


@given(case=cases())
def test_every_token_but_the_first_is_scored_exactly_once(
    case: tuple[tuple[int, ...], int, int],
) -> None:
    text, length, stride = case
    scored = [token for window in windows(text, length, stride) for token in window.continuation]
    assert scored == list(text[1:])


@given(case=cases())
def test_a_window_fits_the_model_and_sees_all_that_fits_ahead(
    case: tuple[tuple[int, ...], int, int],
) -> None:
    text, length, stride = case
    for number, window in enumerate(windows(text, length, stride)):
        last = window.continuation[-1]
        read = window.context + window.continuation[:-1]
        assert read == text[max(0, last - length) : last]
        assert len(window.continuation) <= (stride if number else length)


@torch.inference_mode()
def losses_one_by_one(model: EvalModel, stride: int) -> list[float]:
    """The loss of each token, read by itself."""
    length, losses = model.length, []
    for window in windows(TEXT, length, stride):
        first = len(window.context)
        whole = window.context + window.continuation
        for place in range(first, len(whole)):
            log_p = model.gpt.logits(torch.tensor([whole[:place]]))[0, -1].log_softmax(-1)
            losses.append(-float(log_p[whole[place]]))
    return losses


@pytest.mark.parametrize("stride", [48, 20])
def test_the_loss_of_a_text_is_that_of_its_tokens(stride: int) -> None:
    model = tiny_model()
    total = sum(score.loss for score in score_windows(model, TEXT, stride, None, ""))
    assert total == pytest.approx(sum(losses_one_by_one(model, stride)), rel=1e-10)


def test_the_size_of_a_pass_changes_nothing() -> None:
    small, large = (
        [score.loss for score in score_windows(tiny_model(size), TEXT, 16, None, "")]
        for size in (48, 4096)
    )
    assert small == pytest.approx(large, rel=1e-10)


def test_a_limit_takes_the_first_windows() -> None:
    every = score_windows(tiny_model(), TEXT, 16, None, "")
    assert len(every) == 17
    some = score_windows(tiny_model(), TEXT, 16, 3, "")
    assert [score.loss for score in some] == pytest.approx([s.loss for s in every[:3]], rel=1e-10)
    assert len(score_windows(tiny_model(), TEXT, 16, 99, "")) == 17
