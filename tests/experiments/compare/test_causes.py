"""The tables of the second moment and the gradient: of every seed, and nothing where none is."""

import json
from pathlib import Path

import numpy as np
import pytest

from lengthen.analysis.summary import QUANTITIES
from lengthen.experiments.compare.file import Comparison, read_comparison
from lengthen.experiments.compare.outcomes import Group, groups, read_outcomes
from lengthen.experiments.compare.tables import correlations, peaks
from lengthen.run.directory import RunPaths
from tests.experiments.compare.test_tables import plant
from tests.experiments.conftest import Written


def members(comparison: Comparison, root: Path) -> list[Group]:
    return groups(comparison, read_outcomes(comparison, root)[0])


def largest(comparison: Comparison, root: Path, variant: str, quantity: str) -> list[float]:
    runs = [run for run in comparison.runs if run.variant == variant]
    logs = [RunPaths(run.directory(root)).metrics.read_text().splitlines() for run in runs]
    lines = [[json.loads(line) for line in log if '"kind":"step"' in line] for log in logs]
    return [max(line[quantity] for line in of_run) for of_run in lines]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_peaks_are_mean_lowest_and_highest_over_seeds_of_each_runs_largest_value(
    trained: tuple[Comparison, Path], quantity: str
) -> None:
    table = peaks(members(*trained))
    for row in table.rows:
        values = np.array(largest(*trained, row[0], quantity))
        said = row[table.columns.index(quantity)]
        assert said == f"{values.mean():.3g} [{values.min():.3g}, {values.max():.3g}]"


def test_each_quantity_has_its_correlation_at_both_lags(trained: tuple[Comparison, Path]) -> None:
    rows = correlations(members(*trained)).rows
    assert {row[:3] for row in rows} == {
        (variant, quantity, lag)
        for variant in ("baseline", "slw")
        for quantity in QUANTITIES
        for lag in "01"
    }


def test_logs_without_the_second_moment_have_no_peak_and_no_correlation(
    written: Written, tmp_path: Path
) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        plant(tmp_path, run, [5.0, 4.0, 3.0])
    found = members(comparison, tmp_path)
    assert {row[1:] for row in peaks(found).rows} == {("-", "-", "-")}
    assert not correlations(found).rows


def test_a_variant_of_which_no_run_has_begun_has_no_peak(written: Written, tmp_path: Path) -> None:
    comparison = read_comparison(written())
    for run in comparison.runs:
        if run.variant == "slw":
            plant(tmp_path, run, [5.0, 4.0, 3.0])
    found = [Group("baseline", "", ()), *members(comparison, tmp_path)]
    assert {row[1:] for row in peaks(found).rows} == {("-", "-", "-")}
