"""Print when the runs of adaptive pacings reached full length, and after how many observations.

python scripts/adaptive_lengths.py studies/pacings.tar.xz
"""

import sys
from pathlib import Path

from lengthen.reporting.gather import gather
from lengthen.run.directory import Metrics


def line(name: str, metrics: Metrics) -> str:
    """Return the line of a run."""
    steps = metrics.of("step")
    full = max(step["length"] for step in steps)
    first = next(step for step in steps if step["length"] == full)
    share = first["tokens"] / steps[-1]["tokens"]
    looks, before = len(metrics.of("observation")), first["step"] - 1
    return f"{name}: {looks} observations, full after {before} steps, {100 * share:.0f} % of tokens"


if __name__ == "__main__":
    runs = (run for run in gather([Path(sys.argv[1])]) if run.metrics.of("observation"))
    print(*(line(run.name, run.metrics) for run in runs), sep="\n")
