"""What a search costs: the tokens of an evaluation were chosen so that 15 % is enough."""

import pytest

from benchmarks.tuning import LONGEST, share


@pytest.mark.parametrize("longest", LONGEST)
def test_a_search_costs_at_most_15_percent_of_a_training_of_1000_steps(longest: int) -> None:
    # Where the first start is calm, even if what is not calm shows it at its last look.
    assert share(8, longest) <= 0.15
    # Where the first is not, if that shows in the middle.
    assert share(16, longest, refuted_after=0.5) <= 0.15


def test_speculation_costs_more_and_never_changes_what_is_needed() -> None:
    assert share(8, 10) < share(8, 10, jobs=2) < share(8, 10, jobs=4)
