"""Print when the runs of adaptive pacings reached full length, and after how many observations.

python scripts/adaptive_lengths.py studies/pacings.tar.xz
"""

import sys
from pathlib import Path

from lengthen.reporting.gather import gather
from lengthen.run.metrics import Metrics


def line(name: str, metrics: Metrics) -> str:
    """Return the line of a run."""
    steps = metrics.steps
    full = max(step.length or 0 for step in steps)
    first = next(step for step in steps if step.length == full)
    share = (first.tokens or 0) / (steps[-1].tokens or 1)
    looks, before = len(metrics.observations), first.step - 1
    return f"{name}: {looks} observations, full after {before} steps, {100 * share:.0f} % of tokens"


if __name__ == "__main__":
    runs = (run for run in gather([Path(sys.argv[1])]) if run.metrics.observations)
    print(*(line(run.name, run.metrics) for run in runs), sep="\n")
