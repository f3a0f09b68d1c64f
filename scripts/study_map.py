"""Print a map of where runs break, from the packed runs of its studies, and sensitivity points.

    python -m scripts.study_map studies/map.toml studies/map-warmup.toml studies/map-depth.toml

Every run that took a step has a line. A run breaks where the probe's loss ratio passes 1.2 after
the rate's warm-up, or where it ends 0.3 nats above the best rate of its own line of rates; that
counts against the method's claim at no more than 4 times that best rate. A line of rates shares all
other settings. Its sensitivity is the mean over its rates of min(loss, loss at the start) less the
best loss.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lengthen.core.loss_ratio import UNSTABLE
from lengthen.experiments.compare.file import read_comparison
from lengthen.experiments.compare.outcomes import Outcome, read_outcomes
from lengthen.run.packed import opened
from lengthen.util.errors import LengthenError
from lengthen.util.tables import Table, number, show
from scripts.study import packed_beside

ABOVE = 0.3  # nats above the best rate's final loss that count as broken
FARTHEST = 4  # times the best rate: beyond that a break says nothing
CALM = 1.0  # a ratio of what has not been above its lowest


@dataclass(frozen=True)
class Line:
    """What the runs along one line of rates share."""

    study: str
    variant: str
    layers: int
    length: int
    tokens: int  # a step
    beta2: float
    warmup: int  # steps

    @property
    def cells(self) -> tuple[str, ...]:
        """These in words, for a table."""
        shape = (str(self.layers), f"{self.length:,}", f"{self.tokens:,}")
        return (self.study, self.variant, *shape, f"{self.beta2:g}", str(self.warmup))


LINE = ("study", "variant", "layers", "length", "tokens a step", "beta2", "warm-up")


@dataclass(frozen=True)
class Point:
    """One run of the map."""

    rate: float
    loss: float  # at the end; infinite where it did not get there
    start: float  # loss of the first step
    ratio: float  # the probe's largest after the warm-up; infinite where it was not finite
    norm: float | None  # the largest of the gradient after the warm-up
    logit: float | None  # the last look at the largest attention logit

    def breaks(self, best: float) -> bool:
        """Whether it breaks, beside the best final loss of its line."""
        return self.ratio > UNSTABLE or math.isinf(self.loss) or self.loss > best + ABOVE


Map = dict[Line, list[Point]]


def read_map(files: Sequence[Path]) -> Map:
    """Return the points of each line, by rate; raises SettingError and DataError."""
    found: Map = {}
    for file in files:
        comparison = read_comparison(file)
        with opened(packed_beside(file)) as folder:
            outcomes, _ = read_outcomes(comparison, folder)
        for outcome in outcomes:
            if outcome.shown.metrics.steps:
                found.setdefault(_line(file.stem, outcome), []).append(_point(outcome))
    return {line: sorted(points, key=lambda one: one.rate) for line, points in found.items()}


def _line(study: str, outcome: Outcome) -> Line:
    config = outcome.config or outcome.run.config
    return Line(
        study=study,
        variant=outcome.run.variant,
        layers=config.model.layers,
        length=config.model.length,
        tokens=config.batch.rows * config.model.length,
        beta2=config.optimizer.betas[1],
        warmup=config.optimizer.warmup_steps,
    )


def _point(outcome: Outcome) -> Point:
    config = outcome.config or outcome.run.config
    metrics, rises = outcome.shown.metrics, config.optimizer.warmup_steps
    after = [step for step in metrics.steps if step.step > rises]
    ratios = [
        math.inf if probe.loss is None else probe.loss_ratio or CALM
        for probe in metrics.probes
        if probe.step > rises
    ]
    logits = [step.largest_logit for step in metrics.steps if step.largest_logit is not None]
    return Point(
        rate=config.optimizer.learning_rate,
        loss=math.inf if outcome.loss is None else outcome.loss,
        start=metrics.steps[0].loss or math.inf,
        ratio=max(ratios, default=CALM),
        norm=max((step.grad_norm for step in after if step.grad_norm is not None), default=None),
        logit=logits[-1] if logits else None,
    )


def map_table(found: Map) -> Table:
    """Return every run of the map."""
    columns = ("rate", "of the best", "loss", "above the best", "probe's ratio", "norm", "logit")
    note = (
        "Loss: at the end, nats per token. Probe's ratio, norm of the gradient: the largest after "
        "the rate's warm-up. Logit: the largest of the first layer's attention at the last look. "
        f"Breaks: a ratio above {UNSTABLE}, or {ABOVE} nats above the best rate's loss."
    )
    rows = tuple(row for line, points in found.items() for row in _rows(line, points))
    return Table("The map", (*LINE, *columns, "breaks"), rows, note)


def _rows(line: Line, points: Sequence[Point]) -> Iterator[tuple[str, ...]]:
    best = best_of(points)
    some_ended = math.isfinite(best.loss)
    for point in points:
        times = point.rate / best.rate
        far = f", at more than {FARTHEST} times the best rate" * (some_ended and times > FARTHEST)
        yield (
            *line.cells,
            f"{point.rate:g}",
            f"{times:.3g}" if some_ended else "-",
            _finite(point.loss),
            _finite(point.loss - best.loss),
            _finite(point.ratio),
            number(point.norm),
            number(point.logit),
            f"yes{far}" if point.breaks(best.loss) else "no",
        )


def _finite(value: float) -> str:
    return number(value) if math.isfinite(value) else "not finite"


def best_of(points: Sequence[Point]) -> Point:
    """Return the point of the lowest final loss."""
    return min(points, key=lambda one: one.loss)


def sensitivity(points: Sequence[Point]) -> float | None:
    """Return the mean of min(loss, loss at the start) less the best loss, nats.

    None where no run got to its end.
    """
    best = best_of(points)
    if not math.isfinite(best.loss):
        return None
    return fmean(min(point.loss, point.start) - best.loss for point in points)


def sensitivity_table(found: Map) -> Table:
    """Return the sensitivity of each line of rates."""
    rows = []
    for line, points in found.items():
        best, over = best_of(points), sensitivity(points)
        rates = ", ".join(f"{point.rate:g}" for point in points)
        cells = ("-",) * 3 if over is None else (f"{best.rate:g}", number(best.loss), number(over))
        rows.append((*line.cells, rates, *cells))
    columns = (*LINE, "rates", "best rate", "its loss", "sensitivity")
    note = "Sensitivity: the mean over the rates of min(loss, loss at the start) less the best."
    return Table("Sensitivity to the learning rate", columns, tuple(rows), note)


def main(words: Sequence[str] | None = None) -> int:
    """Print both tables; return the exit code."""
    usage, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=usage, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="STUDY.toml")
    options = parser.parse_args(words)
    try:
        found = read_map(options.files)
        show([map_table(found), sensitivity_table(found)])
    except LengthenError as error:
        print(f"study: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
