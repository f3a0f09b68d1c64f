"""What `eval` found about models, side by side: a table, the loss by position, and its plot."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lengthen.errors import printable
from lengthen.evaluate.outcome import Curve, Measure
from lengthen.evaluate.results import Result
from lengthen.picture import Curve as Line
from lengthen.picture import Panel
from lengthen.tables import Table

MISSING = "-"
WIDE = 5  # models; more of them are rows
DIGITS = 4  # significant ones
ERROR_DIGITS = 2  # of a standard error
NEIGHBOURS = 4  # bands of a curve, of which the text shows one
TITLE = "Evaluations"
NOTE = (
    "± is one standard error, over items (sequences, windows); chance is what guessing gives. Of "
    "each model the newest checkpoint that a task was run on."
)

Results = Mapping[str, Sequence[Result]]  # by the name of the model
Labelled = Mapping[str, Result]  # by the name of the question


def tables(models: Results) -> list[Table]:
    """Return the measures of all models, and the losses by position; empty without a result."""
    newest = {name: _newest(results) for name, results in models.items() if results}
    return [_measures(newest), *_positions(newest)] if newest else []


def _newest(results: Sequence[Result]) -> dict[str, Result]:
    """Return the result of the newest checkpoint for each question, the later of equal ones."""
    found: dict[str, Result] = {}
    for result in results:
        label = _label(result)
        if label not in found or (found[label].step or 0) <= (result.step or 0):
            found[label] = result
    return found


def _label(result: Result) -> str:
    options = ", ".join(f"{name} {value}" for name, value in result.options.items())
    return printable(result.outcome.task + (f" ({options})" if options else ""))


def _measures(models: Mapping[str, Labelled]) -> Table:
    rows: dict[str, dict[str, Measure]] = {}  # by question and measure, then by model
    for name, results in models.items():
        for label, result in results.items():
            for measure in result.outcome.measures:
                rows.setdefault(f"{label} {printable(measure.name)}", {})[name] = measure
    head = ("", *models, "chance")
    steps = ("checkpoint", *(_steps(results) for results in models.values()), "")
    body = [
        (row, *(_value(found.get(name)) for name in models), _chance(found.values()))
        for row, found in rows.items()
    ]
    lines = [head, steps, *body]
    if len(models) > WIDE:
        lines = [tuple(column) for column in zip(*lines, strict=True)]
    return Table(TITLE, lines[0], tuple(lines[1:]), " ".join([NOTE, *_notes(models)]))


def _notes(models: Mapping[str, Labelled]) -> Iterable[str]:
    """Return the conventions behind the figures, each once."""
    return dict.fromkeys(
        f"{label}: {printable(note)}."
        for results in models.values()
        for label, result in results.items()
        for note in result.outcome.notes
    )


def _steps(results: Labelled) -> str:
    steps = sorted({result.step for result in results.values() if result.step is not None})
    return " and ".join(f"{step:,}" for step in steps) or MISSING


def _value(measure: Measure | None) -> str:
    if measure is None:
        return MISSING
    value, error = measure.value, measure.error
    if error is None:
        return figure(value)
    if not _is_plain(value) and math.isfinite(value + error):
        return f"{value:.1e} ± {error:.1e}"
    if not 0 < error < math.inf:
        return f"{figure(value)} ± {figure(error)}"
    behind = _behind(error, ERROR_DIGITS)  # more digits of the value would say nothing
    return f"{value:,.{behind}f} ± {error:,.{behind}f}"


def _chance(measures: Iterable[Measure]) -> str:
    """Return what guessing gives, as a range where it differs between models."""
    levels = sorted({figure(m.chance): m.chance for m in measures if m.chance is not None}.values())
    ends = dict.fromkeys(figure(level) for level in (levels[:1] + levels[-1:]))
    return " to ".join(ends) or MISSING


def figure(value: float) -> str:
    """Return a figure with 4 significant digits; a very small or large one as a power of ten."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    return f"{value:,.{_behind(value, DIGITS)}f}" if _is_plain(value) else f"{value:.1e}"


def _is_plain(value: float) -> bool:
    return value == 0 or 1e-4 <= abs(value) < 1e7


def _behind(value: float, digits: int) -> int:
    """Return how many digits of a number stand behind its point where so many are significant."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def _positions(models: Mapping[str, Labelled]) -> Iterator[Table]:
    """Yield a table for each curve, with some of its bands."""
    for title, curves in _curves(models).items():
        longest = max(curves.values(), key=lambda curve: len(curve.at))
        shown = list(longest.at[::-NEIGHBOURS])[::-1]
        rows = [(name, *_at(curve, shown)) for name, curve in curves.items()]
        columns = ("model", *(f"{at:,.0f}" for at in shown))
        note = f"By {printable(longest.axis)}: means over bands around these."
        yield Table(title, columns, tuple(rows), note)


def _at(curve: Curve, places: Sequence[float]) -> Iterator[str]:
    values = dict(zip(curve.at, curve.values, strict=True))
    return (figure(values[place]) if place in values else MISSING for place in places)


def _curves(models: Mapping[str, Labelled]) -> dict[str, dict[str, Curve]]:
    """Return the curves of all models by the name of question and curve."""
    found: dict[str, dict[str, Curve]] = {}
    for name, results in models.items():
        for label, result in results.items():
            for curve in result.outcome.curves:
                found.setdefault(f"{label}: {printable(curve.name)}", {})[name] = curve
    return found


def panels(models: Results) -> list[Panel]:
    """Return a plot of each curve, all models in it, along a logarithmic axis at first."""
    newest = {name: _newest(results) for name, results in models.items() if results}
    return [
        Panel(
            title,
            printable(next(iter(curves.values())).axis),
            "nats",
            [_line(name, curve) for name, curve in curves.items()],
            log_x=True,
        )
        for title, curves in _curves(newest).items()
    ]


def _line(name: str, curve: Curve) -> Line:
    places = [place for place in zip(curve.at, curve.values, strict=True) if place[0] > 0]
    points = [(x, y) for x, y in places if math.isfinite(y)]
    breaks = [x for x, y in places if not math.isfinite(y)]
    return Line(name, points, breaks=breaks)
