"""What a search costs: 15 % of a training where an early start is calm, and more where none is."""

from pathlib import Path

import pytest

from benchmarks.tuning import LONGEST, STARTS, share


@pytest.mark.parametrize("longest", LONGEST)
def test_a_search_costs_at_most_15_percent_of_a_training_of_1000_steps(longest: int) -> None:
    # Where the first start is calm, even if what is not calm shows it at its last look.
    assert share(8, longest) <= 0.15
    # Where the first is not, if that shows in the middle.
    assert share(16, longest, refuted_after=0.5) <= 0.15


def test_later_starts_cost_more_than_that_and_the_page_says_how_much() -> None:
    page = (Path(__file__).parents[2] / "docs/tuning.md").read_text(encoding="utf-8")
    for start in STARTS:
        cells = []
        for longest in LONGEST:
            middle, last = (f"{100 * share(start, longest, refuted_after=r):.1f}" for r in (0.5, 1))
            cells.append(middle if middle == last else f"{middle} to {last}")
        assert f"| {start} | {' | '.join(cells)} |" in page


def test_speculation_costs_more_and_never_changes_what_is_needed() -> None:
    assert share(8, 10) < share(8, 10, jobs=2) < share(8, 10, jobs=4)
