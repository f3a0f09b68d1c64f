"""What a search costs: 15 % of a training, and more only where all goes wrong at once."""

from pathlib import Path

import pytest

from benchmarks.tuning import LONGEST, STARTS, late_share, share
from lengthen.tune.search import FIRST


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("longest", LONGEST)
def test_a_search_costs_at_most_15_percent_of_a_training_of_1000_steps(
    start: int, longest: int
) -> None:
    # Even if what is not calm shows it at its last look; but for the last start and smallest T.
    hardest = (start, longest) == (STARTS[-1], FIRST)
    assert share(start, longest, refuted_after=0.5 if hardest else 1.0) <= 0.15


def test_the_page_says_what_every_outcome_costs() -> None:
    page = (Path(__file__).parents[2] / "docs/tuning.md").read_text(encoding="utf-8")
    for start in STARTS:
        cells = []
        for longest in LONGEST:
            middle, last = (f"{100 * share(start, longest, refuted_after=r):.1f}" for r in (0.5, 1))
            cells.append(middle if middle == last else f"{middle} to {last}")
        assert f"| {start} | {' | '.join(cells)} |" in page


def test_the_page_says_what_it_costs_where_the_very_beginning_deceives() -> None:
    page = (Path(__file__).parents[2] / "docs/tuning.md").read_text(encoding="utf-8")
    dearest = [100 * max(late_share(start, longest) for longest in LONGEST) for start in STARTS]
    said = ", ".join(f"{share:.0f}" for share in dearest[1:-1])
    assert f"{said} and {dearest[-1]:.0f} %" in " ".join(page.split())


def test_speculation_costs_more_and_never_changes_what_is_needed() -> None:
    assert share(8, 10) < share(8, 10, jobs=2) < share(8, 10, jobs=4)
