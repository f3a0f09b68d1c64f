"""What a search costs: 15 % of the training in docs/tuning.md, and more of a smaller one."""

from pathlib import Path

import pytest

from benchmarks.tuning import (
    LONGEST,
    RECIPES,
    STARTS,
    expected,
    late_share,
    problem,
    problem_of,
    share,
)
from lengthen.experiments.tune.cost import whole_training
from lengthen.experiments.tune.search import Setting
from lengthen.planning.plan import plan


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("longest", LONGEST)
def test_a_search_costs_at_most_15_percent_of_1000_steps_but_for_a_race_behind_all_of_it(
    start: int, longest: int
) -> None:
    # Even if what is not calm shows it at its last look.
    dearest = start < 32 and longest < LONGEST[0]
    assert (share(start, longest) > 0.15) == dearest
    assert share(start, longest) < 0.27


def test_the_page_says_what_every_outcome_costs() -> None:
    page = (Path(__file__).parents[3] / "docs/tuning.md").read_text(encoding="utf-8")
    for start in STARTS:
        cells = []
        for longest in LONGEST:
            middle, last = (f"{100 * share(start, longest, refuted_after=r):.1f}" for r in (0.5, 1))
            cells.append(middle if middle == last else f"{middle} to {last}")
        assert f"| {start} | {' | '.join(cells)} |" in page


def test_the_page_says_what_it_costs_where_the_very_beginning_deceives() -> None:
    page = (Path(__file__).parents[3] / "docs/tuning.md").read_text(encoding="utf-8")
    dearest = [100 * max(late_share(start, longest) for longest in LONGEST) for start in STARTS]
    said = ", ".join(f"{share:.0f}" for share in dearest[1:-1])
    assert f"{said} and {dearest[-1]:.0f} %" in " ".join(page.split())


def test_the_page_says_what_the_recipes_cost_likely_and_at_most() -> None:
    page = (Path(__file__).parents[3] / "docs/tuning.md").read_text(encoding="utf-8")
    for recipe in RECIPES:
        cells = []
        for aggressive in (False, True):
            one = expected(recipe, aggressive=aggressive)
            cells.append(f"{100 * one.likely:.1f}, at most {100 * one.most:.0f}")
        longest = 20 * problem_of(recipe).space.ladder(8)[-1].multiple
        assert f"| `{recipe}` | {' | '.join(cells)} | {longest} |" in page


@pytest.mark.parametrize("recipe", RECIPES)
def test_whatever_is_chosen_for_a_recipe_its_training_gets_to_full_length(recipe: str) -> None:
    asked = problem_of(recipe)
    for start in asked.space.starts:
        for setting in asked.space.ladder(start):
            full = plan(whole_training(asked, setting), 256).full
            assert full is not None
            assert full.tokens_before <= 0.75 * asked.budget


def test_the_search_that_the_page_tells_of_still_has_room_for_its_choice() -> None:
    assert problem().space.ladder(8)[-1] == Setting(8, 64)
    assert round(100 * problem().warmup_share(Setting(8, 64))) == 64
    assert problem().space.ladder(64)[-1] == Setting(64, 43)


def test_speculation_costs_more_and_never_changes_what_is_needed() -> None:
    assert share(8, 10) < share(8, 10, jobs=2) < share(8, 10, jobs=4)
