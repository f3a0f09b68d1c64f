"""The panels that every report has, made from what the runs wrote down."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lengthen.core.loss_ratio import UNSTABLE
from lengthen.evaluation import results, tables
from lengthen.reporting import comparability
from lengthen.reporting.curves import Curve, Panel, averaged, flattened, thin
from lengthen.reporting.gather import NamedRun
from lengthen.run.records import LARGEST, EvalRecord, ProbeRecord, StepRecord
from lengthen.util.errors import printable

# What curves run along: field of a record -> its name on an axis.
AXES = {"step": "step", "tokens": "trained tokens", "seconds": "seconds of training"}
STEP_TOKENS = "rows x length"  # no field of a record: worked out
Drawn: TypeAlias = StepRecord | EvalRecord | ProbeRecord
MACHINE = ("device", "threads", "cores", "processor")  # of an environment: what seconds depend on


@dataclass(frozen=True)
class _Plot:
    """What one standard panel shows."""

    title: str
    field: str
    unit: str
    kind: type[Drawn] = StepRecord
    along: str = "step"
    log: bool = False


LOSS_RATIO = ("loss_ratio", "loss / lowest so far")
PERPLEXITY = ("perplexity", "perplexity", EvalRecord)
PLOTS = (
    _Plot("Validation perplexity by token", *PERPLEXITY, "tokens", log=True),
    _Plot("Loss ratio of the steps", *LOSS_RATIO),
    _Plot("Validation perplexity by step", *PERPLEXITY, "step", log=True),
    _Plot("Validation perplexity by second", *PERPLEXITY, "seconds", log=True),
    _Plot("Training loss, each step at its own length", "loss", "nats", along="tokens"),
    _Plot("Loss ratio of the probe, at full length", *LOSS_RATIO, ProbeRecord),
    _Plot("Variance norm", "variance_norm", "l1 norm of √v", log=True),
    _Plot("Variance max", "variance_max", "largest √v", log=True),
    _Plot("Gradient norm, before clipping", "grad_norm", "l2 norm"),
    _Plot("Length", "length", "tokens in a row"),
    _Plot("Rows", "rows", "rows in a step"),
    _Plot("Tokens per step", STEP_TOKENS, "tokens in a step"),
    _Plot("Learning rate", "lr", "learning rate"),
)


def panels_of(runs: Sequence[NamedRun], families: Mapping[str, str] | None = None) -> list[Panel]:
    """Return the standard panels, also those without a point; curves are thinned already.

    Validation losses of different text have panels of their own, and so have probes; those along
    seconds are there where all runs had such a machine alone. `families` maps a run's name to its
    family (curves.Curve); a run that is not in it is its own.
    """
    most = points_per_curve(len(runs))
    plots = [plot for plot in PLOTS if plot.along != "seconds" or timed_alone(runs)]
    # Run by run, since all points of 30 long runs at once would take more memory than their logs.
    curves = {
        run.name: [_curve(plot, run, (families or {}).get(run.name, ""), most) for plot in plots]
        for run in runs
    }
    groups: dict[type[Drawn], list[tuple[str, list[NamedRun]]]] = {
        EvalRecord: comparability.named_groups(runs, "eval"),
        ProbeRecord: comparability.named_groups(runs, "probe"),
    }
    return [
        _panel(plot, text, [curves[run.name][number] for run in members])
        for number, plot in enumerate(plots)
        for text, members in groups.get(plot.kind, [("", list(runs))])
    ]


def timed_alone(runs: Sequence[NamedRun]) -> bool:
    """Return whether the seconds of the runs compare: each had the machine alone, and one alike."""
    facts = ([str(run.environment.get(name)) for name in MACHINE] for run in runs)
    # A GPU's name without its number.
    machines = {tuple(fact.rpartition(", ")[-1] for fact in of_run) for of_run in facts}
    return all(run.alone for run in runs) and len(machines) < 2


def _panel(plot: _Plot, text: str, curves: Sequence[Curve]) -> Panel:
    return Panel(
        f"{plot.title} ({text})" if text else plot.title,
        AXES[plot.along],
        plot.unit,
        # The steps of each seed stay: a mean would hide the spike of one.
        curves if plot.kind is StepRecord else averaged(curves, log=plot.log),
        threshold=UNSTABLE if plot.field == "loss_ratio" else None,
        log_y=plot.log or flattened(curves),
    )


def evaluation_panels(models: tables.Results) -> list[Panel]:
    """Return a plot of each curve that evaluations measured, along a logarithmic axis at first."""
    return [
        Panel(title, printable(own[0][1].axis), "nats", [_line(*one) for one in own], log_x=True)
        for title, own in tables.curves_of(models).items()
    ]


def _line(one: tables.Shown, curve: results.Curve) -> Curve:
    places = [place for place in zip(curve.at, curve.values, strict=True) if place[0] > 0]
    points = [(x, y) for x, y in places if math.isfinite(y)]
    breaks = [x for x, y in places if not math.isfinite(y)]
    return Curve(one.name, points, one.model, breaks)


def points_per_curve(runs: int) -> int:
    """Return how many points a curve gets where `runs` of them share the figures of a page."""
    return max(200, min(2000, 24_000 // max(1, runs)))


def _curve(plot: _Plot, run: NamedRun, family: str, most: int) -> Curve:
    points, breaks = [], []
    for record in run.metrics.of(plot.kind):
        x, y = _value(record, plot.along), _value(record, plot.field)
        if x is None:
            continue
        if y is not None:
            points.append((x, y))
        elif not record.is_finite:
            breaks.append((x, 0.0))
    crosses = [x for x, _ in thin(breaks, most)]
    return Curve(run.name, thin(points, most), family, crosses)


def _value(record: Drawn, field: str) -> float | None:
    """Return what a curve has of a record; None where it is absent, or too large to be drawn."""
    value: float | None
    if field != STEP_TOKENS:
        value = getattr(record, field)
    elif not isinstance(record, StepRecord) or record.rows is None or record.length is None:
        value = None
    else:
        value = record.rows * record.length
    return None if value is None or value > LARGEST else value
