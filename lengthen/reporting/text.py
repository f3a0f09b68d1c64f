"""The analysis of runs as text: a block for each, then tables over all of them."""

from collections.abc import Iterator, Mapping, Sequence

from lengthen.analysis.instability import MOST_SPIKES, THRESHOLDS, Ratios
from lengthen.analysis.summary import (
    Correlated,
    Side,
    Summary,
    best_loss,
    first_at_or_below,
    summarise,
    verdict_line,
)
from lengthen.core.loss_ratio import UNSTABLE
from lengthen.evaluation import tables as evaluations
from lengthen.reporting import comparability, decisions
from lengthen.reporting.gather import NamedRun
from lengthen.reporting.losses import final_losses
from lengthen.util.tables import Table, counted, number

SPIKE_ROWS = 24  # of the table of spikes; many runs show fewer each
CALM = f"No loss ratio above {THRESHOLDS[0]} in any run."


def lines(
    runs: Sequence[NamedRun],
    losses: Sequence[float] = (),
    families: Mapping[str, str] | None = None,
    *,
    brief: bool = False,
) -> Iterator[Table | str]:
    """Yield what is to be shown of `runs`, the first of which is the baseline.

    `losses` are the goals of the table of times, in nats; by default the best validation loss of
    the first of several. `families` maps a run's name to its family (losses.final_losses).
    `brief` leaves correlations out.
    """
    notes = comparability.notes(runs)
    summaries = {run.name: summarise(run.metrics) for run in runs}
    for name, summary in summaries.items():
        yield from block(name, summary)
    yield from (f"note: {text}" for text in notes)
    yield final_losses(runs, families)
    yield instability(summaries, _unlike_probes(runs))
    yield worst_spikes(summaries) or CALM
    if not brief:
        yield correlated(summaries)
    yield from filter(None, (times(runs, losses), decisions.table(runs)))
    yield from evaluations.tables({run.name: run.results for run in runs})


def block(name: str, summary: Summary) -> Iterator[str]:
    """Yield a run's verdict and facts, a line each."""
    yield f"{name}: {verdict_line(summary)}"
    yield f"  up to step {summary.steps:,}: {_amounts(summary.tokens, summary.seconds)} of training"
    if summary.evaluating.count:
        best = f"best {number(summary.best_loss)}"
        at = "" if summary.best_step is None else f" at step {summary.best_step:,}"
        last = number(summary.last_loss, missing="not finite")
        yield f"  validation loss {last}, {best}{at}"
    sides = [("evaluation", summary.evaluating), ("probe", summary.probing)]
    sides.append(("observation", summary.observing))
    if beside := [_side(what, side) for what, side in sides if side.count]:
        yield f"  apart from training: {', '.join(beside)}"
    if summary.unreadable:
        yield f"  unreadable lines of the log, left out: {summary.unreadable:,}"


def _amounts(tokens: float | None, seconds: float | None) -> str:
    known = "tokens not logged" if tokens is None else f"{tokens:,.0f} tokens"
    return f"{known}, " + ("seconds not logged" if seconds is None else f"{seconds:,.1f} s")


def _side(what: str, side: Side) -> str:
    return f"{counted(side.count, what)} ({_amounts(side.tokens, side.seconds)})"


def _unlike_probes(runs: Sequence[NamedRun]) -> str:
    groups = comparability.named_groups(runs, "probe")
    if len(groups) < 2:
        return ""
    where = ", ".join(f"{text} in {members[0].name}" for text, members in groups)
    return f" Probes are not alike ({where}): each ratio is to the run's own lowest, and no other."


def instability(summaries: Mapping[str, Summary], note: str = "") -> Table:
    """Return the unstable counts and largest ratios of steps and probe, side by side."""
    above = tuple(f"> {threshold}" for threshold in THRESHOLDS)
    return Table(
        "Instability: loss / lowest loss before, of steps | of the probe",
        ("run", "count", *above, "share", "largest", "marked", "stable"),
        tuple(_instability(name, summary) for name, summary in summaries.items()),
        f"Unstable is above {UNSTABLE} (the paper's threshold) or not finite; share: of all steps. "
        "Marked: unstable steps with a changed length or joined rows, whose ratio is not fair. "
        f"Stable: the full-length probe never rose above {UNSTABLE}, and every step was finite; "
        f"* by the steps, for want of a probe's ratio.{note}",
    )


def _instability(name: str, summary: Summary) -> tuple[str, ...]:
    steps, probe = _figures(summary.ratios), _figures(summary.probe)
    count, *above, largest = (f"{a} | {b}" for a, b in zip(steps, probe, strict=True))
    ratios = summary.ratios
    share = f"{100 * (ratios.above_papers / ratios.count):.1f} %" if ratios.count else "-"
    return (name, count, *above, share, largest, f"{ratios.marked:,}", _stable(summary))


def _figures(ratios: Ratios | None) -> tuple[str, ...]:
    if ratios is None:
        return ("0", *("-" for _ in THRESHOLDS), "-")
    largest = "not finite" if ratios.not_finite else number(ratios.largest, 2)
    return (f"{ratios.count:,}", *(f"{count:,}" for count in ratios.unstable), largest)


def _stable(summary: Summary) -> str:
    word = "diverged" if summary.why_diverged else "yes" if summary.stable else "no"
    return {"probe": word, "steps": f"{word} *"}.get(summary.judged_by, "-")


def worst_spikes(summaries: Mapping[str, Summary]) -> Table | None:
    """Return where the worst separate spikes are; None where no run has any."""
    most = max(1, min(MOST_SPIKES, SPIKE_ROWS // (2 * len(summaries))))
    rows = [
        (
            f"{name}, {what}",
            f"{spike.step:,}",
            number(spike.tokens, 0),
            number(spike.length, 0),
            number(spike.ratio, 2, "not finite"),
            f"{spike.duration:,}",
        )
        for name, summary in summaries.items()
        for what, ratios in (("steps", summary.ratios), ("probe", summary.probe))
        for spike in (ratios.spikes[:most] if ratios else ())
    ]
    if not rows:
        return None
    return Table(
        "Worst spikes",
        ("run", "step", "tokens", "length", "ratio", "lasting steps"),
        tuple(rows),
        f"A spike is a run of neighbouring steps above {THRESHOLDS[0]}, placed at its highest; "
        f"at most {most} for each run and measure.",
    )


def correlated(summaries: Mapping[str, Summary]) -> Table:
    """Return Pearson's r of the loss ratio with variance and gradient norm."""
    return Table(
        "What goes with the loss ratio",
        ("run", "quantity", "lag", "r", "p", "n"),
        tuple(
            (name, *_correlation(one))
            for name, summary in summaries.items()
            for one in summary.correlations
        ),
        "Pearson's r of both in n steps; lag 1: the quantity one logged step before the ratio. p "
        "allows for neighbouring steps being alike. A correlation is no cause.",
    )


def _correlation(one: Correlated) -> tuple[str, ...]:
    what = (one.quantity.replace("_", " "), str(one.lag))
    c = one.correlation
    if c is None:
        return (*what, *"---")
    return (*what, f"{c.r:z.3f}", f"{c.p_effective:.2g}", f"{c.n:,}")


def times(runs: Sequence[NamedRun], losses: Sequence[float] = ()) -> Table | None:
    """Return when each run first had each validation loss; None without a goal, or another run."""
    baseline = best_loss(runs[0].metrics.evaluations) if len(runs) > 1 else None
    goals = list(losses) or ([] if baseline is None else [baseline])
    if not goals:
        return None
    known, members = comparability.groups(runs, "eval")[0]
    compared = {run.name for run in members}
    rows, refused = [], []
    for run in runs:
        if run.name not in compared:
            where = comparability.difference(comparability.text_of(run, "eval"), known)
            refused.append(f"{run.name} is not compared with {runs[0].name}: {where}. ")
        for loss in goals:
            at = first_at_or_below(run.metrics.evaluations, loss)
            figures = ("not reached", "-", "-")
            if run.name not in compared:
                figures = ("not compared", "-", "-")
            elif at is not None:
                figures = (f"{at.step:,}", number(at.tokens, 0), number(at.seconds, 1))
            rows.append((run.name, number(loss, 4), *figures))
    source = "" if losses else f"The loss is the best of {runs[0].name}, the first run. "
    return Table(
        "First evaluation at or below a validation loss",
        ("run", "loss", "step", "tokens", "seconds"),
        tuple(rows),
        f"{source}{''.join(refused)}{comparability.cadence(members)}"
        "Seconds are of training alone, and compare only runs that had the machine alike.",
    )
