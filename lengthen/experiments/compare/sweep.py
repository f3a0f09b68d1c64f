"""A grid along one axis: where is each variant best, and where does it break?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lengthen.core.loss_ratio import UNSTABLE
from lengthen.experiments.compare.file import Comparison
from lengthen.experiments.compare.outcomes import Group
from lengthen.experiments.compare.tables import goals_of, largest, said, speedup
from lengthen.reporting.curves import Curve, Panel
from lengthen.util.tables import Table, number

FEWEST_POINTS = 3  # on an axis, for a curve
# What can be tuned for one model: along these axes a best value means something.
TUNED = ("optimizer.", "batch.", "pacing.")


@dataclass(frozen=True)
class Series:
    """One variant along one axis, everything else held."""

    variant: str
    held: str  # what the other axes are set to
    points: tuple[tuple[float, Group], ...]  # by rising value

    @property
    def name(self) -> str:
        """What it is called in a table and a plot."""
        return f"{self.variant}, {self.held}" if self.held else self.variant

    def best_stable(self) -> tuple[float, Group] | None:
        """Return the point of the lowest loss among those where no seed was unstable."""
        stable = [point for point in self.points if not _breaks(point[1])]
        losses = [(loss, *point) for point in stable if (loss := _loss(point[1])) is not None]
        best = min(losses, key=lambda one: one[0], default=None)
        return None if best is None else best[1:]

    def breaks_at(self) -> float | None:
        """Return the lowest value at which a seed diverged or was unstable."""
        return next((value for value, group in self.points if _breaks(group)), None)

    def crashed(self) -> list[str]:
        """Say at which values how many seeds crashed."""
        counted = [(group.fates("crashed"), len(group.outcomes), x) for x, group in self.points]
        return [
            f"{crashed} of {seeds} crashed at {x:g}" for crashed, seeds, x in counted if crashed
        ]


def _breaks(group: Group) -> bool:
    # A crash, such as of a full disk, says nothing about a value; what came before it does.
    return bool(group.fates("diverged")) or not all(summary.stable for summary in group.summaries)


def _loss(group: Group) -> float | None:
    losses = [loss for loss in group.losses().values() if loss is not None]
    return sum(losses) / len(losses) if losses else None


def series(comparison: Comparison, members: Sequence[Group], axis: int) -> list[Series]:
    """Return every variant's points along an axis whose values are numbers; none for a short one.

    `axis` counts the comparison's axes from 0.
    """
    found: dict[tuple[str, str], list[tuple[float, Group]]] = {}
    for group in members:
        values = comparison.cells[group.cell]
        value = values[axis]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return []
        held = ", ".join(
            f"{name.split('.')[-1]}={other}"
            for number, (name, other) in enumerate(zip(comparison.axes, values, strict=True))
            if number != axis
        )
        found.setdefault((group.variant, held), []).append((float(value), group))
    if max(map(len, found.values()), default=0) < FEWEST_POINTS:
        return []
    return [
        Series(variant, held, tuple(sorted(points, key=lambda point: point[0])))
        for (variant, held), points in found.items()
    ]


def sweep_tables(comparison: Comparison, members: Sequence[Group]) -> Iterator[Table]:
    """Yield for each axis that can be tuned where each variant is best and where it breaks."""
    for axis, setting in enumerate(comparison.axes):
        along = series(comparison, members, axis)
        if along and setting.startswith(TUNED):
            yield _sweep_table(setting, along, comparison.baseline)


def _sweep_table(setting: str, along: Sequence[Series], baseline: str) -> Table:
    rows = []
    for one in along:
        same = (s for s in along if s.variant == baseline and s.held == one.held)
        base = next(same, None)
        best, rival = one.best_stable(), None if base is None else base.best_stable()
        faster = None
        if best is not None and rival is not None:
            faster = speedup(best[1], rival[1], goals_of(rival[1]), lambda r: r.tokens)
        rows.append(
            (
                one.name,
                "none" if best is None else f"{best[0]:g}",
                number(None if best is None else _loss(best[1])),
                "; ".join([_breaking(one), *one.crashed()]),
                said(faster),
            )
        )
    return Table(
        f"Along {setting}",
        ("variant", "best stable value", "loss there", "breaks at", "tokens: times fewer"),
        tuple(rows),
        f"Stable: every seed finished, and its probe's ratio never rose above {UNSTABLE}. Breaks "
        "at: the lowest value where a seed did not. Times fewer: until the best loss of the best "
        f"stable {baseline} is reached, which is the fair rival.{_crashes(along)}",
    )


def _breaking(one: Series) -> str:
    value = one.breaks_at()
    return "not in this range" if value is None else f"{value:g}"


def _crashes(along: Sequence[Series]) -> str:
    """Return what is to be said of the runs that crashed; nothing where none did."""
    groups = [group for one in along for _, group in one.points]
    crashed = [o for group in groups for o in group.outcomes if o.fate == "crashed"]
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
        where = f"against {setting}"
        yield Panel(
            f"Validation loss at the end {where}",
            setting,
            "nats per token, mean of seeds",
            [_curve(one, _loss) for one in along],
            log_x=log,
        )
        for name, ratio in (("steps", _step_ratio), ("probe", _probe_ratio)):
            yield Panel(
                f"Largest loss ratio of the {name} {where}",
                setting,
                "largest of all seeds",
                [_curve(one, ratio) for one in along],
                threshold=UNSTABLE,
                log_x=log,
            )


def _curve(one: Series, value_of: Callable[[Group], float | None]) -> Curve:
    values = [(value, value_of(group)) for value, group in one.points]
    return Curve(one.name, [(x, y) for x, y in values if y is not None])


def _step_ratio(group: Group) -> float | None:
    return largest(summary.ratios.largest for summary in group.summaries)


def _probe_ratio(group: Group) -> float | None:
    return largest(s.probe.largest if s.probe else None for s in group.summaries)
