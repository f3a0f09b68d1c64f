"""Results of evaluations side by side: a table of measures, and the loss by position."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lengthen.evaluation.results import PLACES, Curve, Measure, Result
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
class Shown:
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
    return [_measures(shown), *_positions(curves_of(models))] if shown else []


def _shown(models: Results) -> list[Shown]:
    newest = [(name, result) for name, own in models.items() for result in _newest(own)]
    by_task: dict[str, list[Result]] = defaultdict(list)
    steps: dict[str, set[int | None]] = defaultdict(set)
    for name, result in newest:
        by_task[result.outcome.task].append(result)
        steps[name].add(result.step)
    differing = {task: _differing(results) for task, results in by_task.items()}
    shown = []
    for name, result in newest:
        whole = name if len(steps[name]) == 1 else f"{name}, checkpoint {_step(result.step)}"
        names = differing[result.outcome.task]
        text = _label(result, [each for each in names if each not in TOKENIZED])
        shown.append(Shown(name, whole, text, _label(result, names), result))
    return shown


def _newest(results: Sequence[Result]) -> list[Result]:
    """Return the result of the newest checkpoint for each question, the later of equal ones."""
    by_step = sorted(results, key=_checkpoint)
    newest = {tuple(sorted(result.question.items())): result for result in by_step}
    return sorted(newest.values(), key=_checkpoint)


def _checkpoint(result: Result) -> int:
    return result.step or 0


def _differing(results: Sequence[Result]) -> list[str]:
    """Return in what the questions of one task differ; in a count where in nothing else."""
    questions = [result.question for result in results]
    every = dict.fromkeys(name for question in questions for name in question)

    def kinds(names: Sequence[str]) -> int:
        return len({tuple(question.get(name) for name in names) for question in questions})

    names = [name for name in every if name not in COUNTS and kinds([name]) > 1]
    for name in COUNTS:
        names += [name] if kinds([*names, name]) > kinds(names) else []
    return names


def _label(result: Result, differing: Sequence[str]) -> str:
    parts = []
    for name, value in result.question.items():
        if name in result.options or name in differing:
            short = name.removesuffix(" SHA-256").removesuffix(" id")
            parts.append(f"{short} {value if short == name else value[:HASH]}")
    return printable(result.outcome.task + (f" ({', '.join(parts)})" if parts else ""))


def _measures(shown: Sequence[Shown]) -> Table:
    columns = list(dict.fromkeys(one.column for one in shown))
    rows: dict[str, dict[tuple[str, int | None], Measure]] = {}  # by question and measure
    for one in shown:
        for measure in one.result.outcome.measures:
            rows.setdefault(one.row(measure.name), {})[one.column] = measure
    lines = [
        ("", *(name for name, _ in columns), "chance"),
        ("checkpoint", *(_step(step) for _, step in columns), ""),
    ]
    for row, measures in rows.items():
        values = (_value(measures.get(column)) for column in columns)
        lines.append((row, *values, _chance(measures.values())))
    if len(columns) > WIDE:
        lines = list(zip(*lines, strict=True))
    return Table(TITLE, lines[0], tuple(lines[1:]), " ".join([NOTE, *_notes(shown)]))


def _notes(shown: Sequence[Shown]) -> Iterable[str]:
    """Return where the named sets and stores lay, and the conventions of figures, each once."""
    places, conventions = [], []
    for one in shown:
        settings = dict(one.result.outcome.settings)
        for place, digest in PLACES.items():
            name = f"{place} {settings.get(digest, '')[:HASH]}"
            if place in settings and name in one.label:
                places.append(f"{name}: {printable(settings[place])}.")
        conventions += [f"{one.label}: {printable(note)}." for note in one.result.outcome.notes]
    return dict.fromkeys([*places, *conventions])


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
    places = _decimals(error, ERROR_DIGITS)  # more digits of the value would say nothing
    return f"{value:z,.{places}f} ± {error:,.{places}f}"


def _chance(measures: Iterable[Measure]) -> str:
    """Return what guessing gives, as a range where it differs between models."""
    levels = [measure.chance for measure in measures if measure.chance is not None]
    ends = [min(levels), max(levels)] if levels else []
    return " to ".join(dict.fromkeys(figure(level) for level in ends)) or MISSING


def figure(value: float) -> str:
    """Return a number with 4 significant digits; a very small or large one as a power of ten."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    return f"{value:,.{_decimals(value, DIGITS)}f}" if _is_plain(value) else f"{value:.1e}"


def _is_plain(value: float) -> bool:
    return value == 0 or 1e-4 <= abs(value) < 1e7


def _decimals(value: float, digits: int) -> int:
    """Return how many digits follow the point of a number where so many are significant."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def _positions(of_models: Mapping[str, list[tuple[Shown, Curve]]]) -> Iterator[Table]:
    """Yield a table for each curve, with some of its bands."""
    for title, curves in of_models.items():
        longest = max((curve for _, curve in curves), key=lambda curve: len(curve.at))
        places = list(longest.at[::-NEIGHBOURS])[::-1]
        rows = []
        for one, curve in curves:
            values = dict(zip(curve.at, curve.values, strict=True))
            cells = (figure(values[at]) if at in values else MISSING for at in places)
            rows.append((one.name, *cells))
        columns = ("model", *(f"{at:,.0f}" for at in places))
        note = f"By {printable(longest.axis)}: means over bands around these."
        yield Table(title, columns, tuple(rows), note)


def curves_of(models: Results) -> dict[str, list[tuple[Shown, Curve]]]:
    """Return the curves of all models by the name of question and curve."""
    curves: dict[str, list[tuple[Shown, Curve]]] = {}
    for one in _shown(models):
        for curve in one.result.outcome.curves:
            curves.setdefault(f"{one.label}: {printable(curve.name)}", []).append((one, curve))
    return curves
