"""The tables of what may lie behind instability: second moment and gradient (paper, 4.1)."""

from collections.abc import Iterator, Sequence

from lengthen.analysis.summary import QUANTITIES
from lengthen.experiments.compare.outcomes import Group
from lengthen.util.stats import interval
from lengthen.util.tables import Table


def peaks(members: Sequence[Group]) -> Table:
    """Return the largest value in a run of each quantity, as a mean over seeds."""
    return Table(
        "The largest values of a run",
        ("variant", *QUANTITIES),
        tuple((group.name, *_peaks(group)) for group in members),
        "The mean over seeds of each run's largest value, and its 95 % interval. The paper finds "
        "extreme values of the second moment where training is unstable.",
    )


def _peaks(group: Group) -> Iterator[str]:
    for number, _ in enumerate(QUANTITIES):
        of_seeds = (summary.peaks[number] for summary in group.summaries)
        values = [value for value in of_seeds if value is not None]
        yield _said(values) if values else "-"


def _said(values: Sequence[float]) -> str:
    mean = interval(values)
    if mean.low is None or mean.high is None:
        return f"{mean.mean:.3g}"
    return f"{mean.mean:.3g} [{mean.low:.3g}, {mean.high:.3g}]"


def correlations(members: Sequence[Group]) -> Table:
    """Return Pearson's r of the loss ratio with what should go with it, seed by seed."""
    rows = [row for group in members for row in _correlations(group)]
    return Table(
        "What goes with the loss ratio",
        ("variant", "quantity", "steps later", "r, mean", "r, over seeds", "largest p"),
        tuple(rows),
        "Pearson's r of the steps' loss ratio with a quantity of the same step, or of the step "
        "before. p with the effective number of steps, since neighbours resemble each other. "
        "Going together is no cause: a spike makes large gradients, which raise the variance.",
    )


def _correlations(group: Group) -> Iterator[tuple[str, ...]]:
    found = [list(summary.correlations) for summary in group.summaries]
    for same in zip(*found, strict=True):
        defined = [one.correlation for one in same if one.correlation is not None]
        if not defined:
            continue
        r = [correlation.r for correlation in defined]
        p = max(correlation.p_effective for correlation in defined)
        yield (
            group.name,
            same[0].quantity,
            str(same[0].lag),
            f"{sum(r) / len(r):.2f}",
            f"{min(r):.2f} to {max(r):.2f}",
            f"{p:.2g}",
        )
