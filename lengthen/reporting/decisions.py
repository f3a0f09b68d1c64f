"""What adaptive pacings observed and decided, as a table."""

from collections.abc import Iterator, Sequence

from lengthen.reporting.gather import NamedRun
from lengthen.util.tables import Table, number

ROWS = 12  # of the table of decisions, about; many runs show fewer each


def table(runs: Sequence[NamedRun]) -> Table | None:
    """Return each growth, and where a run is now; None without an adaptive pacing.

    Of a run with many growths it has the first and the last.
    """
    rows = {run.name: list(_rows(run)) for run in runs if run.metrics.observations}
    if not rows:
        return None
    each = max(1, ROWS // (2 * len(rows)))
    shown = {
        name: own if len(own) <= 2 * each + 1 else [*own[:each], *own[-each:]]
        for name, own in rows.items()
    }
    return Table(
        "What adaptive pacings decided",
        ("run", "step", "length", "next", "steps at it", "observed loss", "to beat", "growth"),
        tuple((name, *cells) for name, own in shown.items() for cells in own),
        "To beat: the lowest loss observed at this length before. Calm: pacing.patience "
        "observations in a row were not above it. Forced: pacing.max_hold steps went by first. "
        f"Of many growths a run shows its first {each} and last {each}.",
    )


def _rows(run: NamedRun) -> Iterator[tuple[str, ...]]:
    """Yield the growths of a run, and its last decision whatever it was."""
    every = run.metrics.observations
    for one in every:
        if one.grew or one is every[-1]:
            counts = (
                f"{count:,}"
                for count in (one.step, one.length, one.next_length, one.steps_at_length)
            )
            kind = "forced" if one.forced else "calm" if one.grew else "not yet"
            yield (*counts, number(one.loss, 4, "not finite"), number(one.lowest, 4), kind)
