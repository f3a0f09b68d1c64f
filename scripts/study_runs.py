"""Read the packed runs of declared studies: each run in figures, beside the baseline's curve.

Which files go together, and what a run's seconds are, stands in scripts.study_figures.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

from lengthen.config.load import differences, read_toml
from lengthen.config.schema import Config
from lengthen.evaluation.evaluate import VALID
from lengthen.evaluation.results import Measure, Result, read
from lengthen.evaluation.results import Outcome as Evaluation
from lengthen.experiments.compare.file import Comparison, read_comparison
from lengthen.experiments.compare.outcomes import Outcome, groups, read_outcomes
from lengthen.experiments.compare.seconds import SecondsTable, read_seconds
from lengthen.model import cost
from lengthen.run.directory import RunPaths
from lengthen.run.packed import opened
from lengthen.util.errors import SettingError
from scripts.study import packed_beside
from scripts.study_savings import Curve, Saving, curves, saving

# In what a point of the baseline's curve may differ from it.
SAME_CURVE = ("budget.", "optimizer.decay_tokens", "run.seed", "evaluation.", "saving.", "data.")


@dataclass(frozen=True)
class Run:
    """A finished run in figures."""

    seed: int
    loss: float  # at the end, as the verdicts have it
    seconds: float  # by the table
    tokens: int
    flops: int  # attention in full
    flops_causal: int
    valid: Evaluation | None  # over the whole validation part

    def measure(self, name: str) -> Measure | None:
        """Return a figure of `valid`; None where it was not measured."""
        measures = self.valid.measures if self.valid else ()
        return next((one for one in measures if one.name == name), None)


@dataclass(frozen=True)
class Variant:
    """All finished runs of one variant."""

    name: str
    on_curve: bool  # the baseline on other tokens, or the baseline itself
    runs: tuple[Run, ...]

    def losses(self) -> dict[int, float]:
        """Return the final losses by seed."""
        return {run.seed: run.loss for run in self.runs}

    @property
    def seconds(self) -> float:
        """The mean of its runs' seconds, which all seeds share but for an adaptive pacing."""
        return fmean(run.seconds for run in self.runs)


@dataclass(frozen=True)
class Study:
    """What the packed runs of one study, and those beside it, say."""

    name: str
    baseline: str
    variants: tuple[Variant, ...]

    @cached_property
    def base(self) -> Variant:
        """The baseline at all its tokens."""
        return next(one for one in self.variants if one.name == self.baseline)

    @cached_property
    def curves(self) -> dict[int, Curve]:
        """The baseline's loss by its seconds, by seed."""
        members = (one for one in self.variants if one.on_curve)
        points = {one.seconds: one.losses() for one in members if one.seconds <= self.base.seconds}
        return curves(points)

    @property
    def rivals(self) -> list[Variant]:
        """The variants that are no points of the baseline's curve."""
        return [one for one in self.variants if not one.on_curve]

    def savings(self, variant: Variant) -> dict[int, tuple[Run, Saving]]:
        """Return what each seed of a variant saved, of those that the baseline has."""
        pairs = ((run, self.curves[run.seed]) for run in variant.runs if run.seed in self.curves)
        return {
            run.seed: (run, saving(curve.points, run.seconds, run.loss)) for run, curve in pairs
        }


def read_studies(files: Sequence[Path]) -> Study:
    """Read studies and a table of seconds (.json); raises SettingError and DataError."""
    tomls = [file for file in files if file.suffix != ".json"]
    if not tomls:
        raise SettingError("STUDY.toml", "names no study")
    table = _seconds_table(tomls[0], [file for file in files if file.suffix == ".json"])
    comparisons = [read_comparison(file) for file in tomls]
    baseline = comparisons[0].baseline
    base = next(run.config for run in comparisons[0].runs if run.variant == baseline)
    variants: dict[str, Variant] = {}
    for file, comparison in zip(tomls, comparisons, strict=True):
        _must_have_length(comparison, base, tomls[0].stem)
        for variant in _variants(file, comparison, base, table):
            is_taken = variant.name in variants
            name = f"{variant.name} ({file.stem})" if is_taken else variant.name
            variants[name] = replace(variant, name=name)
    if baseline not in variants:
        raise SettingError("baseline", "has no finished run", baseline)
    return Study(tomls[0].stem, baseline, tuple(variants.values()))


def _seconds_table(study: Path, tables: Sequence[Path]) -> SecondsTable:
    """Return the first of these tables, or else the one that a study names."""
    if tables:
        return read_seconds(str(tables[0]))
    named = read_toml(study).get("seconds")
    if not named:
        rule = "has no table of seconds"
        raise SettingError("seconds", rule, str(study), "name a .json beside it")
    return read_seconds(str(study.parent / str(named)))


def _must_have_length(comparison: Comparison, base: Config, study: str) -> None:
    for run in comparison.runs:
        length = run.config.model.length
        if length != base.model.length:
            raise SettingError("model.length", f"{study} has {base.model.length}", length)


def _variants(
    file: Path, comparison: Comparison, base: Config, table: SecondsTable
) -> Iterator[Variant]:
    """Yield the variants of a packed study that have a finished run."""
    with opened(packed_beside(file)) as folder:
        outcomes, _ = read_outcomes(comparison, folder)
        results = {
            outcome.run.name: read(RunPaths(outcome.run.directory(folder)).evaluations)
            for outcome in outcomes
        }
    for group in groups(comparison, outcomes):
        runs = tuple(
            _run(outcome, results[outcome.run.name], table)
            for outcome in group.outcomes
            if outcome.loss is not None
        )
        if runs:
            is_on_curve = _is_on_curve(group.outcomes[0].run.config, base)
            yield Variant(group.name, is_on_curve, runs)


def _is_on_curve(config: Config, base: Config) -> bool:
    return all(name.startswith(SAME_CURVE) for name in differences(config.tables(), base.tables()))


def _run(outcome: Outcome, results: Sequence[Result], table: SecondsTable) -> Run:
    assert outcome.loss is not None
    config = outcome.config or outcome.run.config
    table.must_fit(config)
    model = config.model
    steps = outcome.shown.metrics.steps
    shapes = Counter((step.rows or 0, step.length or 0) for step in steps)
    valid = [one.outcome for one in results if one.outcome.task == VALID]
    return Run(
        seed=outcome.run.seed,
        loss=outcome.loss,
        seconds=sum(count * table.of_step(*shape) for shape, count in shapes.items()),
        tokens=steps[-1].tokens or 0,
        flops=sum(count * cost.flops(model, *shape) for shape, count in shapes.items()),
        flops_causal=sum(
            count * cost.flops(model, *shape, causal=True) for shape, count in shapes.items()
        ),
        valid=valid[-1] if valid else None,
    )
