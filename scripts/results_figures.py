"""Draw the pictures of docs/results.md from the published runs.

    python scripts/results_figures.py

A study that is not published yet has no picture.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lengthen.compare.file import read_comparison
from lengthen.compare.outcomes import Group, groups, read_outcomes
from lengthen.compare.sweep import sweep_panels
from lengthen.monitor import UNSTABLE
from lengthen.picture import Curve, Panel, draw

ROOT = Path(__file__).parents[1]
SWEEPS = ("rates", "lengths")
FROM_TOKENS = 1_000_000  # before it all curves fall so steeply that they lie on one another


def swept(name: str, root: Path) -> Iterator[Panel]:
    """Yield the panels of one study's sweeps."""
    comparison = read_comparison(root / "studies" / f"{name}.toml")
    outcomes, _ = read_outcomes(comparison, root / "studies" / name)
    yield from sweep_panels(comparison, groups(comparison, outcomes))


def variants_over_tokens(root: Path) -> list[Panel]:
    """Return the eight seeds' mean loss by token, and every seed's loss ratio by step."""
    comparison = read_comparison(root / "studies" / "eight-seeds.toml")
    outcomes, _ = read_outcomes(comparison, root / "studies" / "large-batch")
    members = groups(comparison, outcomes)
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
            mark=UNSTABLE,
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
    logs = [outcome.shown.metrics.of("eval") for outcome in group.outcomes]
    # Seeds of one variant are evaluated after the same steps, so that places can be averaged.
    places = zip(*logs, strict=True)
    means = [(here[0]["tokens"], sum(r["loss"] for r in here) / len(here)) for here in places]
    return Curve(group.variant, [(x, y) for x, y in means if x >= FROM_TOKENS])


def _every_seed(members: Sequence[Group], field: str) -> list[Curve]:
    """Return a curve of a field of the step lines for each run."""
    return [
        Curve(
            outcome.run.name,
            [
                (line["step"], line[field])
                for line in outcome.shown.metrics.of("step")
                if line[field] is not None
            ],
            family=group.variant,
        )
        for group in members
        for outcome in group.outcomes
    ]


def figures(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each picture's place and its SVG."""
    if (root / "studies/large-batch/eight-seeds.json").is_file():
        yield root / "docs/results-batch.svg", draw(variants_over_tokens(root))
    for name in SWEEPS:
        panels = list(swept(name, root)) if (root / "studies" / name).is_dir() else []
        if panels:
            yield root / "docs" / f"results-{name}.svg", draw(panels)


if __name__ == "__main__":
    for place, svg in figures(ROOT):
        place.write_text(svg, encoding="utf-8")
        print(place.relative_to(ROOT))
