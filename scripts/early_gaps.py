"""Print how far one variant's validation loss lies above another's, by seed, as training goes on.

    python scripts/early_gaps.py studies/starts.tar.xz start-8 start-32

Nats at the first, third, tenth and last evaluation, of runs that were evaluated after equal tokens.
"""

import sys
from pathlib import Path

from lengthen.experiments.compare.file import RUNS
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.run.packed import opened

LOOKS = (0, 2, 9, -1)


def rows(study: Path, variant: str, other: str) -> list[str]:
    """Return a row of a table for each seed that both variants of a packed study have."""
    with opened(study) as folder:
        above, below = (_losses(folder / RUNS / name) for name in (variant, other))
    lines = []
    for seed in sorted(above.keys() & below.keys()):
        gaps = (f"{above[seed][look] - below[seed][look]:.3f}" for look in LOOKS)
        lines.append(f"| {seed.removeprefix('seed-')} | {' | '.join(gaps)} |")
    return lines


def _losses(variant: Path) -> dict[str, list[float]]:
    """Return the validation losses of each seed."""
    metrics = {run.name: read_metrics(RunPaths(run).metrics) for run in variant.iterdir()}
    return {seed: [look.loss or 0.0 for look in log.evaluations] for seed, log in metrics.items()}


if __name__ == "__main__":
    print(*rows(Path(sys.argv[1]), *sys.argv[2:]), sep="\n")
