"""Draw the pictures of the pages on results from the published runs.

python -m scripts.results_figures
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lengthen.core.loss_ratio import UNSTABLE
from lengthen.experiments.compare.file import Comparison, read_comparison
from lengthen.experiments.compare.outcomes import Group, groups, read_outcomes
from lengthen.experiments.compare.sweep import sweep_panels
from lengthen.reporting.curves import Curve, Panel
from lengthen.reporting.figures import draw
from lengthen.run.packed import opened
from scripts.study_figures import panels
from scripts.study_runs import read_studies

ROOT = Path(__file__).parents[1]
SWEEPS = ("rates", "lengths")
SAVINGS = re.compile(r"<!-- saving: (\S+(?: \S+)*) -->")  # studies whose savings the page shows
FROM_TOKENS = 1_000_000  # before it all curves fall so steeply that they lie on one another


def swept(name: str, root: Path) -> Iterator[Panel]:
    """Yield the panels of one study's sweeps."""
    yield from sweep_panels(*_study(root, name, name))


def _study(root: Path, name: str, packed: str) -> tuple[Comparison, list[Group]]:
    comparison = read_comparison(root / f"studies/{name}.toml")
    with opened(root / f"studies/{packed}.tar.xz") as folder:
        outcomes, _ = read_outcomes(comparison, folder)
    return comparison, groups(comparison, outcomes)


def variants_over_tokens(root: Path) -> list[Panel]:
    """Return the eight seeds' mean loss by token, and every seed's loss ratio by step."""
    _, members = _study(root, "eight-seeds", "large-batch")
    return [
        Panel(
            "Validation loss, mean of 8 seeds",
            "trained tokens",
            "nats per token",
            [_mean(group) for group in members],
        ),
        Panel(
            "Loss ratio of the steps, every seed",
            "step",
            "loss / lowest so far",
            _every_seed(members, "loss_ratio"),
            threshold=UNSTABLE,
        ),
        Panel(
            "Variance max, every seed",
            "step",
            "largest √v",
            _every_seed(members, "variance_max"),
            log_y=True,
        ),
    ]


def _mean(group: Group) -> Curve:
    logs = [outcome.shown.metrics.evaluations for outcome in group.outcomes]
    # Seeds of one variant are evaluated after the same steps, so that places can be averaged.
    places = zip(*logs, strict=True)
    means = [(here[0].tokens, sum(r.loss for r in here) / len(here)) for here in places]
    return Curve(group.variant, [(x, y) for x, y in means if x >= FROM_TOKENS])


def _every_seed(members: Sequence[Group], field: str) -> list[Curve]:
    """Return a curve of a field of the step lines for each run."""
    return [
        Curve(
            outcome.run.name,
            [
                (line.step, getattr(line, field))
                for line in outcome.shown.metrics.steps
                if getattr(line, field) is not None
            ],
            family=group.variant,
        )
        for group in members
        for outcome in group.outcomes
    ]


def figures(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield each picture's place and its SVG."""
    yield root / "docs/results-batch.svg", draw(variants_over_tokens(root), ".svg")
    for name in SWEEPS:
        yield root / f"docs/results-{name}.svg", draw(list(swept(name, root)), ".svg")
    yield from savings(root)


def savings(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield a picture for each study whose savings are on the page."""
    page = (root / "docs/results.md").read_text(encoding="utf-8")
    for match in SAVINGS.finditer(page):
        study = read_studies([root / name for name in match[1].split()])
        yield root / f"docs/results-{study.name}.svg", draw(panels(study), ".svg")


if __name__ == "__main__":
    for place, svg in figures(ROOT):
        place.write_bytes(svg)
        print(place.relative_to(ROOT))
