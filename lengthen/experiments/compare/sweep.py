"""A grid along one axis: where is each variant best, and where does it break?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lengthen.core.loss_ratio import UNSTABLE
from lengthen.experiments.compare.file import Comparison
from lengthen.experiments.compare.outcomes import Group
from lengthen.experiments.compare.tables import (
    largest_probe_ratio,
    largest_step_ratio,
    speedup,
    times_fewer,
)
from lengthen.reporting.curves import Curve, Panel
from lengthen.util.tables import Table, number

FEWEST_POINTS = 3  # on an axis, for a curve
# What can be tuned for one model: along these axes a best value means something.
TUNED = ("optimizer.", "batch.", "pacing.")
# What is drawn against the values: its title, its unit, its value, the height of a dashed line.
PANELS: tuple[tuple[str, str, Callable[[Group], float | None], float | None], ...] = (
    ("Validation loss at the end", "nats per token, mean of seeds", Group.mean_loss, None),
    ("Largest loss ratio of the steps", "largest of all seeds", largest_step_ratio, UNSTABLE),
    ("Largest loss ratio of the probe", "largest of all seeds", largest_probe_ratio, UNSTABLE),
)


@dataclass(frozen=True)
class Series:
    """One variant along one axis, everything else fixed."""

    variant: str
    others: str  # what the other axes are set to
    points: tuple[tuple[float, Group], ...]  # by rising value

    @property
    def name(self) -> str:
        """What it is called in a table and a plot."""
        return f"{self.variant}, {self.others}" if self.others else self.variant

    def best_stable(self) -> tuple[float, Group] | None:
        """Return the point of the lowest loss among those where no seed was unstable."""
        stable = [
            (value, group)
            for value, group in self.points
            if not _breaks(group) and group.mean_loss() is not None
        ]
        return min(stable, key=lambda point: point[1].mean_loss() or 0.0, default=None)

    def breaking(self) -> str:
        """Say at which value a seed first broke, and at which values how many seeds crashed."""
        breaks = [value for value, group in self.points if _breaks(group)]
        crashed = [
            f"{crashed} of {len(group.outcomes)} crashed at {value:.12g}"
            for value, group in self.points
            if (crashed := group.count("crashed"))
        ]
        return "; ".join([f"{breaks[0]:.12g}" if breaks else "not in this range", *crashed])


def _breaks(group: Group) -> bool:
    # A crash, such as of a full disk, says nothing about a value; what came before it does.
    return bool(group.count("diverged")) or not all(summary.stable for summary in group.summaries)


def series(comparison: Comparison, members: Sequence[Group], axis: int) -> list[Series]:
    """Return every variant's points along an axis whose values are numbers; none for a short one.

    `axis` counts the comparison's axes from 0.
    """
    lines: dict[tuple[str, str], list[tuple[float, Group]]] = {}
    for group in members:
        values = comparison.cells[group.cell]
        value = values[axis]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return []
        others = ", ".join(
            f"{name.split('.')[-1]}={other}"
            for number, (name, other) in enumerate(zip(comparison.axes, values, strict=True))
            if number != axis
        )
        lines.setdefault((group.variant, others), []).append((float(value), group))
    if max(map(len, lines.values()), default=0) < FEWEST_POINTS:
        return []
    return [
        Series(*names, tuple(sorted(points, key=lambda point: point[0])))
        for names, points in lines.items()
    ]


def sweep_tables(comparison: Comparison, members: Sequence[Group]) -> Iterator[Table]:
    """Yield for each axis that can be tuned where each variant is best and where it breaks."""
    for axis, setting in enumerate(comparison.axes):
        along = series(comparison, members, axis)
        if along and setting.startswith(TUNED):
            yield _sweep_table(setting, along, comparison.baseline)


def _sweep_table(setting: str, along: Sequence[Series], baseline: str) -> Table:
    rivals = {one.others: one.best_stable() for one in along if one.variant == baseline}
    rows = []
    for one in along:
        best, rival = one.best_stable(), rivals.get(one.others)
        fewer = None
        if best is not None and rival is not None:
            fewer = speedup(best[1], rival[1], lambda reached: reached.tokens)
        rows.append(
            (
                one.name,
                "none" if best is None else f"{best[0]:.12g}",
                number(None if best is None else best[1].mean_loss()),
                one.breaking(),
                times_fewer(fewer),
            )
        )
    return Table(
        f"Along {setting}",
        ("variant", "best stable value", "loss there", "breaks at", "tokens: times fewer"),
        tuple(rows),
        f"Stable: no seed diverged, and no probe's ratio rose above {UNSTABLE}. Breaks at: the "
        "lowest value where one did. Times fewer: until the best loss of the best stable "
        f"{baseline} is reached, which is the fair rival.{_crashes(along)}",
    )


def _crashes(along: Sequence[Series]) -> str:
    """Return what is to be said of the runs that crashed; nothing where none did."""
    outcomes = [o for one in along for _, group in one.points for o in group.outcomes]
    crashed = [o for o in outcomes if o.state == "crashed"]
    if not crashed:
        return ""
    named = ", ".join(f"{o.run.name} ({o.attempts.message})" for o in crashed)
    return f" A seed that crashed is missing, and neither stable nor broken: {named}."


def sweep_panels(comparison: Comparison, members: Sequence[Group]) -> Iterator[Panel]:
    """Yield for each axis the loss and the largest ratios against its values."""
    for axis, setting in enumerate(comparison.axes):
        along = series(comparison, members, axis)
        if not along:
            continue
        log = min(value for one in along for value, _ in one.points) > 0
        for title, unit, value_of, mark in PANELS:
            curves = [_curve(one, value_of) for one in along]
            yield Panel(
                f"{title} against {setting}", setting, unit, curves, threshold=mark, log_x=log
            )


def _curve(one: Series, value_of: Callable[[Group], float | None]) -> Curve:
    values = [(x, value_of(group)) for x, group in one.points]
    return Curve(one.name, [(x, y) for x, y in values if y is not None])
