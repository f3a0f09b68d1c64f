"""What the published and the packed runs of the studies say, as the sentences on them need it."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from lengthen.config.load import load
from lengthen.experiments.compare.file import read_comparison
from lengthen.experiments.compare.outcomes import Group, groups, read_outcomes
from lengthen.planning.forecast import Forecast, Saving
from lengthen.planning.plan import plan
from lengthen.run.packed import opened
from lengthen.training.calibrate import given_speed
from lengthen.util.stats import paired
from lengthen.util.tables import Table
from scripts.study_figures import TABLES
from scripts.study_map import Map, Point, read_map
from scripts.study_runs import read_studies

ROOT = Path(__file__).parents[1]
PACKED = {"repeat": "large-batch", "eight-seeds": "large-batch"}  # files that share another's runs


@cache
def facts(study: str) -> Any:
    return json.loads((ROOT / f"studies/{study}.json").read_text(encoding="utf-8"))


def cell(study: str, title: str, row: str, column: str) -> str:
    """Return what a published table says in a row, or in two columns."""
    table = next(t for t in facts(study)["tables"] if t["title"].startswith(title))
    found = next(cells for cells in table["rows"] if row in (cells[0], f"{cells[0]} {cells[1]}"))
    return str(found[table["columns"].index(column)])


def ratio(study: str, variant: str) -> str:
    return cell(study, "Results", variant, "largest ratio, steps")


def fewer(study: str, variant: str, of: str) -> str:
    return cell(study, "Results", variant, f"{of}: times fewer")


def verdict(study: str, pair: str, column: str) -> str:
    return cell(study, "Verdicts", pair, column)


def bounds(study: str, pair: str, sign: int = 1, digits: int = 3) -> tuple[str, str]:
    """Return the ends of a difference's interval, turned round for `sign` -1."""
    ends = [sign * float(end) for end in verdict(study, pair, "95 % interval").split(" to ")]
    low, high = (f"{end:.{digits}f}" for end in sorted(ends))
    return low, high


def size(study: str, pair: str, digits: int = 3) -> str:
    return f"{abs(float(verdict(study, pair, 'difference'))):.{digits}f}"


def largest(study: str, variant: str, quantity: str, digits: int) -> str:
    """Return `mean [lowest, highest]` of a quantity's largest values, with so many decimals."""
    told = cell(study, "The largest", variant, quantity)
    return re.sub(r"[\d.]+", lambda figure: f"{float(figure[0]):.{digits}f}", told)


def relation(study: str, row: str, column: str) -> str:
    return cell(study, "What goes with", row, column)


@cache
def group(study: str, variant: str) -> Group:
    """Return the runs of a packed study's variant."""
    comparison = read_comparison(ROOT / f"studies/{study}.toml")
    with opened(ROOT / f"studies/{PACKED.get(study, study)}.tar.xz") as folder:
        outcomes, _ = read_outcomes(comparison, folder)
    return next(one for one in groups(comparison, outcomes) if one.name == variant)


def losses(study: str, variant: str) -> dict[int, float]:
    """Return the final losses of a packed study's variant by seed."""
    found = group(study, variant).losses()
    return {seed: one for seed, one in found.items() if one is not None}


def apart(study: str, first: str, second: str) -> list[float]:
    """Return the differences of two variants by seed."""
    ours, theirs = losses(study, first), losses(study, second)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def from_in_place(other: str, digits: int = 3) -> tuple[str, str]:
    """Return how far rows cut in place end from a variant of their seeds: size and interval."""
    ours, theirs = losses("long-in-place", "doubling-in-place"), losses("long", other)
    mean = paired([loss - theirs[seed] for seed, loss in ours.items()])
    assert mean.low is not None
    assert mean.high is not None
    low, high = sorted((abs(mean.low), abs(mean.high)))
    assert mean.low * mean.high > 0
    return f"{abs(mean.mean):.{digits}f}", f"[{low:.{digits}f}, {high:.{digits}f}]"


def parted() -> list[int]:
    """Return each seed's first step in which the full length on fewer tokens has another loss."""
    constant, less = (group("long", name).by_seed() for name in ("constant", "less"))
    pairs = (
        zip(constant[seed].shown.metrics.steps, one.shown.metrics.steps, strict=False)
        for seed, one in less.items()
    )
    return [next(a.step for a, b in steps if a.loss != b.loss) for steps in pairs]


@cache
def table_of(kind: str) -> Table:
    """Return a table of the study at length 4,096."""
    names = ("long", "long-in-place")
    return TABLES[kind](read_studies([ROOT / f"studies/{name}.toml" for name in names]))


def row_of(kind: str, variant: str, second: str = "") -> tuple[str, ...]:
    """Return the row of a variant in such a table, of several that with this second cell."""
    return next(r for r in table_of(kind).rows if r[0] == variant and r[1].startswith(second))


def saved() -> str:
    """Return the share of the seconds that doubling saves at least, in percent."""
    told = row_of("saving", "doubling", "mean")[5].removeprefix("at least ")
    return told.partition(" %")[0]


@cache
def mapped() -> Map:
    """Return every run of the map, by the line of rates that it lies on."""
    names = ("map", "map-long", "map-short", "map-warmup")
    return read_map([ROOT / f"studies/{name}.toml" for name in names])


def line_of(variant: str, length: int, warmup: int | None = None) -> list[Point]:
    """Return the map's runs of a variant at a length, by rate: of the first warm-up, or another."""
    return next(
        points
        for at, points in mapped().items()
        if (at.variant, at.length) == (variant, length) and warmup in (None, at.warmup)
    )


def planned_saving() -> Saving:
    """Return what the README's `plan` of GPT-2 prints."""
    pacing = {"kind": "doubling", "start": 256, "duration": "80%"}
    asked = {"model.length": 8192, "batch.rows": 32, "budget.tokens": "2B", "pacing": pacing}
    config, _ = load("gpt2-117m", asked)
    return Forecast("", config, plan(config, 8192), given_speed(config, "1T")).saving
