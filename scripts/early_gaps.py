"""Print how far one variant's validation loss lies above another's, by seed, as training goes on.

    python scripts/early_gaps.py studies/starts/runs/start-8 studies/starts/runs/start-32

Nats at the first, third, tenth and last evaluation, of runs that were evaluated after equal tokens.
"""

import sys
from pathlib import Path

from lengthen.runlog import RunPaths, read_metrics

LOOKS = (0, 2, 9, -1)


def rows(variant: Path, other: Path) -> list[str]:
    """Return a row of a table for each seed that both have."""
    seeds = sorted(path.name for path in variant.iterdir() if (other / path.name).is_dir())
    told = []
    for seed in seeds:
        above, below = (_losses(place / seed) for place in (variant, other))
        gaps = (f"{above[look] - below[look]:.3f}" for look in LOOKS)
        told.append(f"| {seed.removeprefix('seed-')} | {' | '.join(gaps)} |")
    return told


def _losses(run: Path) -> list[float]:
    return [look["loss"] for look in read_metrics(RunPaths(run).metrics).of("eval")]


if __name__ == "__main__":
    print(*rows(*map(Path, sys.argv[1:])), sep="\n")
