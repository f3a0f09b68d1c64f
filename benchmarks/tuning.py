"""What a search by `lengthen tune` costs, worked out from the shapes of its steps; trains nothing.

    python -m benchmarks.tuning

The training that is asked about has 1,000 steps of 32 rows of 256 tokens and a warm-up of 20 steps,
as `laptop-10min` but for rows and budget. Its trials come out monotone: calm from a start on, up to
a T; and longer starts are never worse, so a race goes as far as it can. A trial that is not calm
ends after a share of its steps. Shares are of the arithmetic of the training that is chosen; an
evaluation counts as a forward pass, a third of a step's. At the end are the estimates that
`lengthen tune` prints for the shipped recipes before their first trial.
"""

from collections.abc import Callable
from functools import cache
from math import inf, isfinite

from benchmarks.measure import report
from lengthen.config.load import load
from lengthen.config.schema import Tables
from lengthen.experiments.tune.cost import Estimate, estimate, training_flops, trial_flops
from lengthen.experiments.tune.problem import JUDGE_TOKENS, Problem, within_budget
from lengthen.experiments.tune.search import (
    FIRST,
    MULTIPLES,
    End,
    Setting,
    Space,
    next_settings,
    next_step,
)

STARTS, LONGEST = (8, 16, 32, 64), (64, 29, 19, 9, 4)  # of the calm trials: tokens, warm-ups
RECIPES = ("laptop-2min", "laptop-10min", "laptop-60min")
VOCABULARY = 8192
LOSS = 5.0  # of all that is calm, in nats: the longer start wins every race


def problem_of(recipe: str, tables: Tables | None = None, *, aggressive: bool = False) -> Problem:
    """Return what is asked about a recipe of full length 256, with a vocabulary of 8,192."""
    config, _ = load(recipe, {**(tables or {}), "model": {"vocabulary": VOCABULARY}})
    budget = config.schedule().budget
    return within_budget(Problem(config, budget, JUDGE_TOKENS, Space(STARTS, aggressive)))


@cache
def problem() -> Problem:
    """Return the problem that the tables are about."""
    tokens = 1000 * 32 * 256
    tables = {"batch": {"rows": 32}, "budget": {"tokens": tokens}}
    return problem_of("laptop-10min", {**tables, "optimizer": {"decay_tokens": tokens}})


@cache
def arithmetic(setting: Setting, *, whole: bool) -> float:
    """Return the operations of a training or of a whole trial, evaluations included."""
    return (training_flops if whole else trial_flops)(problem(), setting)


@cache
def expected(recipe: str, *, aggressive: bool = False) -> Estimate:
    """Return what a search for a recipe is likely to cost, and at most."""
    return estimate(problem_of(recipe, aggressive=aggressive))


def share(start: int, longest: int, *, refuted_after: float = 1.0, jobs: int = 1) -> float:
    """Return what the search costs as a share of the training that it chooses.

    Calm are the trials from `start` on whose T is at most `longest` warm-ups. Speculation counts in
    full, which errs above: it ends when it is not needed any more.
    """

    def is_calm(setting: Setting) -> bool:
        return setting.start >= start and setting.multiple <= longest

    return cost_of(is_calm, refuted_after, jobs)


def late_share(start: int, longest: int) -> float:
    """Return the same where whatever is not calm is so at the end of its third warm-up alone."""

    def is_calm(setting: Setting) -> bool:
        return setting.opening or (setting.start >= start and setting.multiple <= longest)

    return cost_of(is_calm, refuted_after=1.0, jobs=1)


def cost_of(is_calm: Callable[[Setting], bool], refuted_after: float, jobs: int) -> float:
    """Return the share of a search whose trials come out as `is_calm` says."""
    space, known, begun_trials = problem().space, dict[Setting, float](), set[Setting]()
    while wanted := next_settings(space, known, jobs):
        begun_trials |= set(wanted)
        known[wanted[0]] = LOSS if is_calm(wanted[0]) else inf
    spent = sum(
        arithmetic(one, whole=False) * (1 if isfinite(known.get(one, LOSS)) else refuted_after)
        for one in begun_trials
    )
    end = next_step(space, known)
    assert isinstance(end, End)
    assert end.chosen is not None
    return spent / arithmetic(end.chosen, whole=True)


def main() -> None:
    """Print the shares for several outcomes of a search."""
    for jobs in (1, 2):
        print(f"\n{jobs} side by side; not calm after half a trial / at its last look, in percent")
        print("start  " + "".join(f"{f'T = {20 * longest}':>15}" for longest in LONGEST))
        for start in STARTS:
            cells = []
            for longest in LONGEST:
                half, last = (share(start, longest, refuted_after=r, jobs=jobs) for r in (0.5, 1))
                cells.append(f"{100 * half:8.1f} /{100 * last:5.1f}")
            print(f"{start:>5}  " + "".join(cells))
    print("\nwhat is not calm is so at the end of its third warm-up alone, in percent")
    for start in STARTS:
        cells = [f"{100 * late_share(start, longest):15.1f}" for longest in LONGEST]
        print(f"{start:>5}  " + "".join(cells))
    for start in STARTS:
        worst = max(share(start, multiple) for multiple in MULTIPLES if multiple >= FIRST)
        report(f"MOST_PERCENT_WHERE_{start}_IS_CALM", 100 * worst)
    print("\nlikely and at most, every trial run to its end, in percent; then with --aggressive")
    for recipe in RECIPES:
        plain, bold = expected(recipe), expected(recipe, aggressive=True)
        figures = (f"{100 * one.likely:8.1f}, {100 * one.most:5.1f}" for one in (plain, bold))
        print(f"{recipe:<14}" + "".join(figures))
        report(f"MOST_PERCENT_OF_{recipe.upper().replace('-', '_')}", 100 * plain.most)


if __name__ == "__main__":
    main()
