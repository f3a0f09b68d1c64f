"""Print when the runs of adaptive pacings reached full length, and after how many observations.

python scripts/adaptive_lengths.py studies/pacings/runs/adaptive-*/seed-*
"""

import sys
from pathlib import Path

from lengthen.runlog import RunPaths, read_metrics


def told(run: Path) -> str:
    """Return the line of a run."""
    metrics = read_metrics(RunPaths(run).metrics)
    steps = metrics.of("step")
    full = max(step["length"] for step in steps)
    first = next(step for step in steps if step["length"] == full)
    share = first["tokens"] / steps[-1]["tokens"]
    looks, before = len(metrics.of("observation")), first["step"] - 1
    return f"{run}: {looks} observations, full after {before} steps, {100 * share:.0f} % of tokens"


if __name__ == "__main__":
    print(*map(told, map(Path, sys.argv[1:])), sep="\n")
