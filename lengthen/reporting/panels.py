"""The panels that every report has, made from what the runs wrote down."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lengthen.core.loss_ratio import UNSTABLE
from lengthen.reporting import apart
from lengthen.reporting.decisions import decided, fewer, observed
from lengthen.reporting.figures import Curve, Mark, Panel
from lengthen.reporting.gather import NamedRun
from lengthen.reporting.thin import points_per_curve, thin
from lengthen.run.metrics import Metrics
from lengthen.run.records import LARGEST, EvalRecord, ProbeRecord, StepRecord

# The clocks that curves run along: field of a record -> its name on an axis.
CLOCKS = {"step": "step", "tokens": "trained tokens", "seconds": "seconds of training"}
STEP_TOKENS = "rows x length"  # no field of a record: worked out
LESSER = (1.1, 1.5)  # thresholds on both sides of the paper's

Column = list[float | None]


@dataclass(frozen=True)
class _Plot:
    """What one standard panel shows."""

    title: str
    kind: str  # of the records
    clock: str
    field: str
    unit: str
    thresholds: bool = False  # of the loss ratio
    log: bool = False
    marks: Callable[[Metrics], Iterable[Mark]] | None = None


def _perplexity(by: str, clock: str) -> _Plot:
    title = f"Validation perplexity by {by}"
    return _Plot(title, "eval", clock, "perplexity", "perplexity", log=True)


def _ratio(title: str, kind: str) -> _Plot:
    return _Plot(title, kind, "step", "loss_ratio", "loss / lowest so far", thresholds=True)


def _by_step(title: str, field: str, unit: str, *, log: bool = False) -> _Plot:
    return _Plot(title, "step", "step", field, unit, log=log)


PLOTS = (
    _perplexity("step", "step"),
    _perplexity("token", "tokens"),
    _perplexity("second", "seconds"),
    _Plot(
        "Training loss, each step at its own length",
        "step",
        "tokens",
        "loss",
        "nats",
        marks=observed,
    ),
    _ratio("Loss ratio of the steps", "step"),
    _ratio("Loss ratio of the probe, at full length", "probe"),
    _by_step("Variance norm", "variance_norm", "l1 norm of √v", log=True),
    _by_step("Variance max", "variance_max", "largest √v", log=True),
    _by_step("Gradient norm, before clipping", "grad_norm", "l2 norm"),
    _Plot("Length", "step", "step", "length", "tokens in a row", marks=decided),
    _by_step("Rows", "rows", "rows in a step"),
    _by_step("Tokens per step", STEP_TOKENS, "tokens in a step"),
    _by_step("Learning rate", "lr", "learning rate"),
)


def panels_of(runs: Sequence[NamedRun], families: Mapping[str, str] | None = None) -> list[Panel]:
    """Return the standard panels, also those without a point; curves are thinned already.

    Validation losses of different text have panels of their own, and so have probes. `families`
    maps a run's name to its family (picture.Curve); a run that is not in it is its own.
    """
    most = points_per_curve(len(runs))
    # Run by run, since all points of 30 long runs at once would take more memory than their logs.
    curves = {run.name: _curves(run, (families or {}).get(run.name, ""), most) for run in runs}
    together = {kind: apart.named(runs, kind) for kind in apart.SETTINGS}
    return [
        Panel(
            f"{plot.title} ({told})" if told else plot.title,
            CLOCKS[plot.clock],
            plot.unit,
            [curves[run.name][number] for run in members],
            mark=UNSTABLE if plot.thresholds else None,
            lesser=LESSER if plot.thresholds else (),
            log_y=plot.log,
        )
        for number, plot in enumerate(PLOTS)
        for told, members in together.get(plot.kind, [("", runs)])
    ]


def _curves(run: NamedRun, family: str, most: int) -> list[Curve]:
    log = run.metrics
    logs = {
        "step": _Columns.of(log.steps),
        "eval": _Columns.of(log.evaluations),
        "probe": _Columns.of(log.probes),
    }
    return [
        replace(_curve(plot, logs[plot.kind], run.name, family, most), marks=marks)
        for plot in PLOTS
        for marks in [fewer(list(plot.marks(run.metrics)), most) if plot.marks else ()]
    ]


@dataclass(frozen=True)
class _Columns:
    """Records of one kind, field by field."""

    numbers: Mapping[str, Column]
    finite: Sequence[bool]

    @staticmethod
    def of(records: Sequence[StepRecord | EvalRecord | ProbeRecord]) -> "_Columns":
        fields = {"rows", "length", *CLOCKS, *(plot.field for plot in PLOTS)}
        numbers = {
            name: [_drawable(getattr(record, name, None)) for record in records] for name in fields
        }
        numbers[STEP_TOKENS] = [
            None if rows is None or length is None else _drawable(rows * length)
            for rows, length in zip(numbers["rows"], numbers["length"], strict=True)
        ]
        return _Columns(numbers, [record.is_finite for record in records])


def _drawable(value: float | None) -> float | None:
    return None if value is None or value > LARGEST else value


def _curve(plot: _Plot, log: _Columns, name: str, family: str, most: int) -> Curve:
    xs, ys = log.numbers[plot.clock], log.numbers[plot.field]
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if x is not None and y is not None]
    breaks = [
        (x, 0.0)
        for x, y, finite in zip(xs, ys, log.finite, strict=True)
        if x is not None and y is None and not finite
    ]
    return Curve(name, thin(points, most), family, [x for x, _ in thin(breaks, most)])
