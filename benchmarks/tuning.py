"""What a search by `lengthen tune` costs, worked out from the shapes of its steps; trains nothing.

    python -m benchmarks.tuning

The training that is asked about has 1,000 steps of 32 rows of 256 tokens and a warm-up of 20 steps,
as `laptop-10min` but for rows and budget. Its trials come out monotone: calm from a start on, up to
a T. A trial that is not calm ends after a share of its steps. Shares are of the arithmetic of the
training that is chosen; an evaluation counts as a forward pass, a third of a step's.
"""

from collections.abc import Callable
from functools import cache

from benchmarks.measure import report
from lengthen import cost
from lengthen.clock import steps
from lengthen.settings import load
from lengthen.tune.question import JUDGE_TOKENS, Question, looks_every
from lengthen.tune.search import FIRST, MULTIPLES, End, Setting, Space, next_step, tries
from lengthen.tune.trials import FORWARD

STARTS, LONGEST = (8, 16, 32, 64), (64, 29, 19, 9, 4)  # of the calm trials: tokens, warm-ups


def question() -> Question:
    tables = {
        "model": {"vocabulary": 8192},
        "batch": {"rows": 32},
        "budget": {"tokens": 1000 * 32 * 256},
        "optimizer": {"decay_tokens": 1000 * 32 * 256},
    }
    config, _ = load("laptop-10min", tables)
    return Question(config, 1000 * 32 * 256, JUDGE_TOKENS, Space(STARTS))


@cache
def arithmetic(setting: Setting, *, whole: bool) -> float:
    """Return the operations of a training or of a whole trial, evaluations included."""
    asked = question()
    config = asked.training(setting) if whole else asked.beginning(setting)
    model = config.model
    training = sum(cost.flops(model, s.rows, s.length) for _, s in steps(config.schedule()))
    if whole:
        return training
    looks = asked.steps(setting) // looks_every(asked.warmup)
    sequences = looks * JUDGE_TOKENS // model.length
    return training + cost.flops(model, sequences, model.length) / FORWARD


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
    space, known, begun = question().space, dict[Setting, bool](), set[Setting]()
    while wanted := tries(space, known, jobs):
        begun |= set(wanted)
        known[wanted[0]] = is_calm(wanted[0])
    spent = sum(
        arithmetic(setting, whole=False) * (1 if known.get(setting, True) else refuted_after)
        for setting in begun
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


if __name__ == "__main__":
    main()
