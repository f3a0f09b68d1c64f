"""The table of final losses: nats, perplexity, bits per byte, and the mean over seeds."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.reporting.gather import NamedRun
from lengthen.reporting.losses import NO_BYTES, OTHER_TEXT, UNLIKE, UNRECORDED, final_losses
from lengthen.util import stats
from tests.logs import evaluation, metrics, step

SIZES = {"valid_tokens": 500, "valid_bytes": 2000, "tokenizer": "t", "valid": "v"}


def run(name: str, loss: float | None, **environment: Any) -> NamedRun:
    return NamedRun(name, metrics(step(3), evaluation(3, loss)), environment, {})


def test_one_run_has_its_last_loss_its_perplexity_and_its_bits_per_byte() -> None:
    table = final_losses([run("a", 2.0, **SIZES)])
    assert table.columns == ("run", "final loss", "perplexity", "bits per byte", "tokens")
    assert table.rows == (("a", "2.000", "7.4", f"{2 * 500 / 2000 / math.log(2):.3f}", "300"),)


@given(st.floats(0.1, 12), st.integers(1, 9))
def test_bits_per_byte_are_the_same_of_one_text_in_longer_tokens(loss: float, longer: int) -> None:
    runs = [
        run("short", loss, **SIZES | {"valid_tokens": 900}),
        run("long", loss * longer, **SIZES | {"valid_tokens": 900 / longer, "tokenizer": "u"}),
    ]
    for one in runs:
        one.environment["valid_tokens"] = round(one.environment["valid_tokens"])
    short, long = (row[3] for row in final_losses(runs).rows)
    assert float(long) == pytest.approx(float(short), rel=0.02, abs=0.002)
    assert final_losses(runs).note.endswith(UNLIKE)


def test_a_run_without_a_record_of_its_bytes_says_so() -> None:
    table = final_losses([run("a", 2.0, **SIZES), run("b", 2.0)])
    assert [row[3] for row in table.rows] == ["0.721", UNRECORDED]
    assert final_losses([run("b", 2.0)]).note.endswith(NO_BYTES)


@pytest.mark.parametrize("value", [0, -1, 2**70, "9", None, [1], 1.5])
def test_a_count_that_is_none_gives_no_bits(value: object) -> None:
    table = final_losses([run("a", 2.0, **SIZES), run("b", 2.0, **SIZES | {"valid_bytes": value})])
    assert table.rows[1][3] == UNRECORDED


def test_texts_of_other_sizes_are_said_to_compare_in_no_figure() -> None:
    table = final_losses([run("a", 2.0, **SIZES), run("b", 2.0, **SIZES | {"valid_bytes": 1})])
    assert table.note.endswith(OTHER_TEXT)


def test_seeds_are_a_mean_with_its_interval_and_a_diverged_one_is_missed() -> None:
    runs = [run(f"a/{n}", loss) for n, loss in enumerate((2.0, 2.2, None))]
    table = final_losses([*runs, run("b", None)], {one.name: "a" for one in runs})
    assert table.columns[-2:] == ("seeds", "95 % interval")
    assert table.rows[0] == ("a", "2.100", "8.2", UNRECORDED, "300", "2 of 3", "0.829 to 3.371")
    assert table.rows[1][1] == "diverged"


def test_a_run_that_was_never_evaluated_says_so() -> None:
    table = final_losses([NamedRun("a", metrics(step(1)), {}, {})])
    assert table.rows[0][1] == "not evaluated"


def test_a_run_that_diverged_before_its_first_evaluation_says_so() -> None:
    table = final_losses([NamedRun("a", metrics(step(1, loss=None)), {}, {})])
    assert table.rows[0][1] == "diverged"


@given(st.lists(st.floats(0.01, 20), min_size=2, max_size=5))
def test_no_interval_holds_losses_that_cannot_be(losses: list[float]) -> None:
    runs = [run(f"a/{n}", loss) for n, loss in enumerate(losses)]
    interval = final_losses(runs, {one.name: "a" for one in runs}).rows[0][-1]
    low = stats.interval(losses).low
    assert low is not None
    assert (interval == "-") == (low < 0)
    assert interval == "-" or float(interval.split(" to ")[0]) == pytest.approx(low, abs=1e-3)
