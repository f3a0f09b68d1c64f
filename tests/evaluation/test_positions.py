"""The task `valid`: loss at full length, by position, and in shorter windows."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthen.data.store import Store
from lengthen.evaluation.loss import validation_loss
from lengthen.evaluation.models import EvalModel, EvalOptions
from lengthen.evaluation.positions import bands, gains, losses, valid
from lengthen.evaluation.results import Outcome
from lengthen.util.errors import DataError, SettingError
from tests.evaluation.made import tiny_model

SEQUENCES = 20
LENGTH = 48


@pytest.fixture
def opened(store: Path) -> Store:
    return Store.open(store)


def measured(outcome: Outcome) -> dict[str, float]:
    return {measure.name: measure.value for measure in outcome.measures}


def full_loss(model: EvalModel, store: Store, size: int, windows: int) -> float:
    """The loss as training measures it."""
    loss = validation_loss(
        model.gpt,
        store.valid,
        sequences=windows,
        full_length=size,
        rows=3,
        context=model.context,
    )
    assert loss is not None
    return loss


def test_losses_by_position_average_to_the_loss_that_training_measures(opened: Store) -> None:
    model = tiny_model()
    by_token = losses(model, opened.valid, LENGTH, SEQUENCES, lambda _: None)
    assert by_token.shape == (SEQUENCES, LENGTH)
    assert by_token.mean() == pytest.approx(full_loss(model, opened, LENGTH, SEQUENCES), rel=1e-10)


def test_the_loss_at_a_position_is_that_of_the_tokens_which_stand_there(opened: Store) -> None:
    model, place = tiny_model(), 11
    by_token = losses(model, opened.valid, LENGTH, SEQUENCES, lambda _: None)
    found = []
    for first in range(0, SEQUENCES * LENGTH, LENGTH):
        read = torch.tensor([opened.valid[first : first + place].tolist()])
        with torch.inference_mode():
            log_p = model.gpt.logits(read)[0, -1].log_softmax(-1)
        found.append(-float(log_p[int(opened.valid[first + place])]))
    assert by_token.mean(axis=0)[place - 1] == pytest.approx(np.mean(found), rel=1e-10)


@given(length=st.integers(1, 5000))
def test_bands_cover_each_position_once(length: int) -> None:
    assert list(itertools.chain.from_iterable(bands(length))) == list(range(1, length + 1))


def test_bands_double_in_four_steps() -> None:
    ends = [band.stop - 1 for band in bands(1024)]
    assert ends[-9:] == [256, 304, 362, 431, 512, 609, 724, 861, 1024]
    assert ends[:8] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_curve_averages_to_the_loss(opened: Store) -> None:
    outcome = valid(tiny_model(), opened, EvalOptions(limit=SEQUENCES))
    (curve,) = outcome.curves
    sizes = [len(band) for band in bands(LENGTH)]
    mean = sum(size * value for size, value in zip(sizes, curve.values, strict=True)) / LENGTH
    assert mean == pytest.approx(measured(outcome)["loss"], rel=1e-10)
    assert curve.at[0] == 1
    assert curve.at[-1] <= LENGTH


def test_shorter_lengths_read_the_same_tokens_in_shorter_windows(opened: Store) -> None:
    model = tiny_model()
    found = measured(valid(model, opened, EvalOptions(limit=SEQUENCES)))
    assert [name for name in found if name.startswith("loss at")] == [
        "loss at length 6",
        "loss at length 12",
        "loss at length 24",
    ]
    for size in (6, 12, 24):
        expected = full_loss(model, opened, size, SEQUENCES * LENGTH // size)
        assert found[f"loss at length {size}"] == pytest.approx(expected, rel=1e-10)


def test_windows_take_the_place_of_the_shorter_lengths(opened: Store) -> None:
    named = valid(tiny_model(), opened, EvalOptions(limit=SEQUENCES, windows=(24, 10)))
    found = measured(named)
    assert [name for name in found if name.startswith("loss at")] == [
        "loss at length 10",
        "loss at length 24",
    ]
    assert dict(named.settings)["windows"] == "10, 24"
    usual = measured(valid(tiny_model(), opened, EvalOptions(limit=SEQUENCES)))
    assert found["loss at length 24"] == usual["loss at length 24"]


@pytest.mark.parametrize("size", [LENGTH, LENGTH + 1])
def test_a_window_is_shorter_than_the_full_length(opened: Store, size: int) -> None:
    with pytest.raises(SettingError, match="--windows: must be shorter than 48 tokens"):
        valid(tiny_model(), opened, EvalOptions(windows=(12, size)))


def test_the_loss_in_a_quarter_is_that_of_its_positions(opened: Store) -> None:
    model = tiny_model()
    by_token = losses(model, opened.valid, LENGTH, SEQUENCES, lambda _: None)
    measures = valid(model, opened, EvalOptions(limit=SEQUENCES)).measures
    quarters = [one for one in measures if "quarter" in one.name]
    assert [one.name for one in quarters] == [f"loss in quarter {n}" for n in (1, 2, 3, 4)]
    for number, one in enumerate(quarters):
        part = by_token[:, 12 * number : 12 * (number + 1)].mean(axis=1)
        assert one.value == pytest.approx(part.mean())
        assert one.error == pytest.approx(part.std(ddof=1) / math.sqrt(SEQUENCES))


def test_context_gain_counts_tokens_that_have_half_a_window_before_them(opened: Store) -> None:
    model = tiny_model()
    measures = valid(model, opened, EvalOptions(limit=SEQUENCES, windows=(12,))).measures
    (gain,) = (one for one in measures if one.name == "context gain over 12")
    whole = losses(model, opened.valid, LENGTH, SEQUENCES, lambda _: None)
    short = losses(model, opened.valid, 12, SEQUENCES * 4, lambda _: None)
    # A token at index 5 of a window has 6 before it, since the first has one.
    late = [at for at in range(LENGTH) if at % 12 >= 5]
    by_sequence = [
        np.mean([short[4 * row + at // 12, at % 12] - whole[row, at] for at in late])
        for row in range(SEQUENCES)
    ]
    assert gain.value == pytest.approx(np.mean(by_sequence))
    assert gain.error == pytest.approx(np.std(by_sequence, ddof=1) / math.sqrt(SEQUENCES))


@given(
    sequences=st.integers(1, 5), length=st.integers(2, 40), size=st.integers(1, 39), data=st.data()
)
def test_a_gain_is_of_each_sequence_whatever_its_windows(
    sequences: int, length: int, size: int, data: st.DataObject
) -> None:
    size = min(size, length - 1)
    worth = data.draw(st.lists(st.integers(-3, 3), min_size=sequences, max_size=sequences))
    windows = sequences * length // size
    whole = np.repeat(-np.array(worth, float), length).reshape(sequences, length)
    found = gains(whole, np.zeros((windows, size)))
    assert set(found) <= set(worth)
    assert len(found) >= max(1, sequences - 1)


def test_the_whole_part_is_read_unless_a_limit_says_less(opened: Store) -> None:
    whole = valid(tiny_model(), opened, EvalOptions())
    assert whole.items == (len(opened.valid) - 1) // LENGTH > SEQUENCES
    assert whole.tokens == whole.items * LENGTH
    some = valid(tiny_model(), opened, EvalOptions(limit=SEQUENCES))
    assert some.items == SEQUENCES
    assert measured(some) != measured(whole)


def test_errors_are_over_sequences_and_chance_is_the_whole_vocabulary(opened: Store) -> None:
    model = tiny_model()
    by_token = losses(model, opened.valid, LENGTH, SEQUENCES, lambda _: None)
    by_sequence = by_token.mean(axis=1)
    loss, perplexity = valid(model, opened, EvalOptions(limit=SEQUENCES)).measures[:2]
    assert loss.error == pytest.approx(by_sequence.std(ddof=1) / math.sqrt(SEQUENCES))
    assert loss.chance == pytest.approx(math.log(257))
    assert perplexity.value == pytest.approx(math.exp(loss.value))
    assert perplexity.error == pytest.approx(perplexity.value * (loss.error or 0))
    assert perplexity.chance == pytest.approx(257)
    assert valid(model, opened, EvalOptions(limit=1)).measures[0].error is None


def test_the_size_of_a_pass_changes_nothing(opened: Store) -> None:
    one, other = (
        measured(valid(tiny_model(size), opened, EvalOptions(limit=SEQUENCES)))
        for size in (1, 4096)
    )
    assert one == pytest.approx(other, rel=1e-10)


def test_a_store_without_a_full_sequence_is_one_line(opened: Store) -> None:
    short = dataclasses.replace(opened, valid=opened.valid[:LENGTH])
    with pytest.raises(DataError, match="the valid part has 48 tokens, needs at least 49"):
        valid(tiny_model(), short, EvalOptions())
