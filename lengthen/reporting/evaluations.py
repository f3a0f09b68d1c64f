"""What `eval` found about models, side by side: a table, the loss by position, and its plot."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lengthen.evaluation.results import PLACES, Curve, Measure, Result
from lengthen.reporting.figures import Curve as Line
from lengthen.reporting.figures import Panel
from lengthen.util.errors import printable
from lengthen.util.tables import Table

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
HASH = 8  # characters of an id or a SHA-256 that name it
# Of the tokenizer's tokens, of which a text has as many as it has; all others are of the text.
PER_TOKEN = ("token perplexity",)
TOKENIZED = ("tokens", "tokens SHA-256")  # of a question: the tokens that its text became
COUNTS = ("words", "tokens", "items")  # that follow from the rest, as far as that is recorded

Results = Mapping[str, Sequence[Result]]  # by the name of the model


@dataclass(frozen=True)
class _Shown:
    """A result and where it stands: figures of equal questions stand side by side, no others."""

    model: str
    name: str  # the model, with its checkpoint where several of it are shown
    label: str  # the question, with all in which it differs from others of the same task
    token_label: str  # the same, for what is counted by the tokenizer's tokens
    result: Result

    @property
    def column(self) -> tuple[str, int | None]:
        """The model, and the checkpoint that it was."""
        return self.model, self.result.step

    def row(self, name: str) -> str:
        """Return the name of a measure's row."""
        label = self.token_label if name in PER_TOKEN else self.label
        return f"{label} {printable(name)}"


def tables(models: Results) -> list[Table]:
    """Return the measures of all models, and the losses by position; empty without a result."""
    shown = _shown(models)
    return [_measures(shown), *_positions(shown)] if shown else []


def _shown(models: Results) -> list[_Shown]:
    newest = [
        (name, result) for name, results in models.items() for result in _newest(results).values()
    ]
    by_task: dict[str, list[Result]] = {}
    for _, result in newest:
        by_task.setdefault(result.outcome.task, []).append(result)
    apart = {task: _differing(results) for task, results in by_task.items()}
    steps: dict[str, set[int | None]] = {}
    for name, result in newest:
        steps.setdefault(name, set()).add(result.step)
    shown = []
    for name, result in newest:
        whole = name if len(steps[name]) == 1 else f"{name}, checkpoint {_step(result.step)}"
        names = apart[result.outcome.task]
        text = _label(result, [each for each in names if each not in TOKENIZED])
        shown.append(_Shown(name, whole, text, _label(result, names), result))
    return sorted(shown, key=lambda one: (list(models).index(one.model), one.result.step or 0))


def _newest(results: Sequence[Result]) -> dict[tuple[tuple[str, str], ...], Result]:
    """Return the result of the newest checkpoint for each question, the later of equal ones."""
    found: dict[tuple[tuple[str, str], ...], Result] = {}
    for result in results:
        question = tuple(sorted(result.question.items()))
        if question not in found or (found[question].step or 0) <= (result.step or 0):
            found[question] = result
    return found


def _differing(results: Sequence[Result]) -> list[str]:
    """Return in what the questions of one task differ; in a count where in nothing else."""
    questions = [result.question for result in results]
    names = dict.fromkeys(name for question in questions for name in question)

    def kinds(names: Sequence[str]) -> int:
        return len({tuple(question.get(name) for name in names) for question in questions})

    found = [name for name in names if name not in COUNTS and kinds([name]) > 1]
    for name in COUNTS:
        found += [name] if kinds([*found, name]) > kinds(found) else []
    return found


def _label(result: Result, differing: Sequence[str]) -> str:
    question = result.question
    names = [name for name in question if name in result.options or name in differing]
    parts = ", ".join(_part(name, question[name]) for name in names)
    return printable(result.outcome.task + (f" ({parts})" if parts else ""))


def _part(name: str, value: str) -> str:
    short = name.removesuffix(" SHA-256").removesuffix(" id")
    return f"{short} {value if short == name else value[:HASH]}"


def _measures(shown: Sequence[_Shown]) -> Table:
    columns = list(dict.fromkeys(one.column for one in shown))
    rows: dict[str, dict[tuple[str, int | None], Measure]] = {}  # by question and measure
    for one in shown:
        for measure in one.result.outcome.measures:
            rows.setdefault(one.row(measure.name), {})[one.column] = measure
    head = ("", *(name for name, _ in columns), "chance")
    steps = ("checkpoint", *(_step(step) for _, step in columns), "")
    body = [
        (row, *(_value(found.get(column)) for column in columns), _chance(found.values()))
        for row, found in rows.items()
    ]
    lines = [head, steps, *body]
    if len(columns) > WIDE:
        lines = [tuple(column) for column in zip(*lines, strict=True)]
    return Table(TITLE, lines[0], tuple(lines[1:]), " ".join([NOTE, *_notes(shown)]))


def _notes(shown: Sequence[_Shown]) -> Iterable[str]:
    """Return where the named sets and stores lay, and the conventions behind figures, each once."""
    conventions = [
        f"{one.label}: {printable(note)}." for one in shown for note in one.result.outcome.notes
    ]
    return dict.fromkeys([*(text for one in shown for text in _places(one)), *conventions])


def _places(one: _Shown) -> Iterator[str]:
    settings = dict(one.result.outcome.settings)
    for place, digest in PLACES.items():
        name = f"{place} {settings.get(digest, '')[:HASH]}"
        if place in settings and name in one.label:
            yield f"{name}: {printable(settings[place])}."


def _step(step: int | None) -> str:
    return MISSING if step is None else f"{step:,}"


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


def _positions(shown: Sequence[_Shown]) -> Iterator[Table]:
    """Yield a table for each curve, with some of its bands."""
    for title, curves in _curves(shown).items():
        longest = max((curve for _, curve in curves), key=lambda curve: len(curve.at))
        places = list(longest.at[::-NEIGHBOURS])[::-1]
        rows = [(one.name, *_at(curve, places)) for one, curve in curves]
        columns = ("model", *(f"{at:,.0f}" for at in places))
        note = f"By {printable(longest.axis)}: means over bands around these."
        yield Table(title, columns, tuple(rows), note)


def _at(curve: Curve, places: Sequence[float]) -> Iterator[str]:
    values = dict(zip(curve.at, curve.values, strict=True))
    return (figure(values[place]) if place in values else MISSING for place in places)


def _curves(shown: Sequence[_Shown]) -> dict[str, list[tuple[_Shown, Curve]]]:
    """Return the curves of all models by the name of question and curve."""
    found: dict[str, list[tuple[_Shown, Curve]]] = {}
    for one in shown:
        for curve in one.result.outcome.curves:
            found.setdefault(f"{one.label}: {printable(curve.name)}", []).append((one, curve))
    return found


def panels(models: Results) -> list[Panel]:
    """Return a plot of each curve, all models in it, along a logarithmic axis at first."""
    return [
        Panel(
            title,
            printable(curves[0][1].axis),
            "nats",
            [_line(one, curve) for one, curve in curves],
            log_x=True,
        )
        for title, curves in _curves(_shown(models)).items()
    ]


def _line(one: _Shown, curve: Curve) -> Line:
    places = [place for place in zip(curve.at, curve.values, strict=True) if place[0] > 0]
    points = [(x, y) for x, y in places if math.isfinite(y)]
    breaks = [x for x, y in places if not math.isfinite(y)]
    return Line(one.name, points, one.model, breaks=breaks)
