"""Windows that slide over a text: each token is scored once, behind as much text as fits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthen.evaluation.model import Subject
from lengthen.evaluation.windows import count, scores_of, windows
from tests.evaluation.made import tiny_subject

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


@given(case=cases())
def test_windows_are_counted_without_making_them(case: tuple[tuple[int, ...], int, int]) -> None:
    text, length, stride = case
    assert count(text, length, stride) == len(list(windows(text, length, stride)))


@torch.inference_mode()
def losses_one_by_one(subject: Subject, stride: int) -> list[float]:
    """The loss of each token, from a pass of its own."""
    length, losses = subject.model.length, []
    for window in windows(TEXT, length, stride):
        first = len(window.context)
        whole = window.context + window.continuation
        for place in range(first, len(whole)):
            log_p = subject.model.logits(torch.tensor([whole[:place]]))[0, -1].log_softmax(-1)
            losses.append(-float(log_p[whole[place]]))
    return losses


@pytest.mark.parametrize("stride", [48, 20])
def test_the_loss_of_a_text_is_that_of_its_tokens(stride: int) -> None:
    subject = tiny_subject()
    total = sum(score.loss for score in scores_of(subject, TEXT, stride, None, ""))
    assert total == pytest.approx(sum(losses_one_by_one(subject, stride)), rel=1e-10)


def test_the_size_of_a_pass_changes_nothing() -> None:
    small, large = (
        [score.loss for score in scores_of(tiny_subject(size), TEXT, 16, None, "")]
        for size in (48, 4096)
    )
    assert small == pytest.approx(large, rel=1e-10)


def test_a_limit_takes_the_first_windows() -> None:
    every = scores_of(tiny_subject(), TEXT, 16, None, "")
    assert len(every) == 17
    some = scores_of(tiny_subject(), TEXT, 16, 3, "")
    assert [score.loss for score in some] == pytest.approx([s.loss for s in every[:3]], rel=1e-10)
    assert len(scores_of(tiny_subject(), TEXT, 16, 99, "")) == 17
