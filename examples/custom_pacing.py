"""Use any function as a pacing: python examples/custom_pacing.py STORE RUN [TOKENS].

STORE is what `lengthen prepare` wrote. The function is checked at every step, and the log has the
values that it returned.
"""

import sys

import lengthen


def doubled(step: int) -> int:
    """Return the length of a step, in tokens: twice as long every 20 steps."""
    return min(256, 8 << step // 20)


store, run, *more = sys.argv[1:]
settings = {
    "pacing": lengthen.Custom(doubled, end=256),
    "budget.tokens": int(more[0]) if more else 1_000_000,
}
print(lengthen.train("laptop-2min", run, data=store, settings=settings))
lengths = sorted({step.length or 0 for step in lengthen.read_metrics(run).steps})
print("lengths", *lengths)
