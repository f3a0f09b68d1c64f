"""Along an axis only what a run shows breaks a value: one that crashed is missing."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from lengthen.config.schema import Tables
from lengthen.experiments.compare.compare import compare
from lengthen.experiments.compare.file import Planned, read_comparison
from lengthen.experiments.compare.outcomes import groups, read_outcomes
from lengthen.experiments.compare.sweep import sweep_tables
from lengthen.run.attempts import ATTEMPTS
from lengthen.util.tables import Table
from tests.experiments.compare.test_tables import SWEEP, plant
from tests.experiments.conftest import Written

FULL = "no space left on the disk"
LOSS = {0.001: 5.6, 0.003: 5.3, 0.01: 5.2, 0.03: 5.1}
Fates = Mapping[tuple[str, float, int], str]  # variant, rate, seed -> what became of the run
Swept = Callable[[Fates], Table]


@pytest.fixture
def swept(written: Written, tmp_path: Path) -> Swept:
    """Give the table along the rate, where all runs finish but those that are named."""

    def table(fates: Fates) -> Table:
        comparison = read_comparison(written(more=SWEEP))
        lines = []
        for run in comparison.runs:
            rate = run.config.optimizer.learning_rate
            fate = fates.get((run.variant, rate, run.seed), "finished")
            _plant(tmp_path, run, LOSS[rate], fate)
            if "crashed" in fate or fate == "missing":
                lines.append({"run": run.name, "event": "ended", "message": FULL})
        (tmp_path / ATTEMPTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        outcomes, missing = read_outcomes(comparison, tmp_path)
        assert missing == 0
        (found,) = sweep_tables(comparison, groups(comparison, outcomes))
        return found

    return table


def _plant(root: Path, run: Planned, loss: float, fate: str) -> None:
    if fate == "missing":  # it crashed before its first step
        return
    losses: Sequence[float] = [6.0, loss] if fate != "crashed at once" else [6.0]
    end = {"finished": "finished", "unstable": "finished", "diverged": "skipped"}.get(fate, "saved")
    plant(root, run, losses, probe=1.3 if "unstable" in fate else 0.99, end=end)


def all_seeds(variant: str, rate: float, fate: str) -> Fates:
    return {(variant, rate, seed): fate for seed in range(3)}


def test_a_value_whose_seeds_all_crashed_does_not_break_and_is_not_the_best(swept: Swept) -> None:
    fates = {**all_seeds("baseline", 0.01, "missing"), **all_seeds("slw", 0.03, "crashed at once")}
    table = swept(fates)
    assert table.rows == (
        ("baseline", "0.03", "5.100", "not in this range; 3 of 3 crashed at 0.01", "1.00"),
        ("slw", "0.01", "5.200", "not in this range; 3 of 3 crashed at 0.03", "not reached"),
    )


def test_nothing_is_said_of_crashes_where_none_happened(swept: Swept) -> None:
    plain = swept({})
    assert "rashed" not in plain.note
    assert [row[3] for row in plain.rows] == ["not in this range"] * 2


def test_the_reason_of_a_crash_stands_below_the_table(swept: Swept) -> None:
    table = swept({("slw", 0.03, 2): "crashed", ("baseline", 0.03, 0): "missing"})
    assert f"baseline/learning_rate=0.03/seed-0 ({FULL})" in table.note
    assert f"slw/learning_rate=0.03/seed-2 ({FULL})" in table.note


@pytest.mark.parametrize("fate", ["missing", "crashed", "crashed at once"])
def test_a_seed_that_crashed_takes_no_value_from_those_that_finished(
    swept: Swept, fate: str
) -> None:
    table = swept({("slw", 0.03, 1): fate})
    assert table.rows[1] == (
        "slw",
        "0.03",
        "5.100",
        "not in this range; 1 of 3 crashed at 0.03",
        "1.00",
    )


@pytest.mark.parametrize("fate", ["diverged", "unstable", "crashed unstable"])
def test_what_diverged_or_was_unstable_breaks_also_beside_a_crash(swept: Swept, fate: str) -> None:
    table = swept({("slw", 0.01, 2): fate, ("slw", 0.003, 0): "missing"})
    crashed = "1 of 3 crashed at 0.003" + "; 1 of 3 crashed at 0.01" * ("crashed" in fate)
    assert table.rows[1][1] == "0.03"
    assert table.rows[1][3] == f"0.01; {crashed}"


def test_the_page_and_the_output_have_the_table_of_a_sweep_that_crashed(
    swept: Swept, written: Written, tmp_path: Path
) -> None:
    swept({("slw", 0.03, 1): "missing"})
    gone: Tables = {"data": {"path": "gone"}}
    result = compare(written(more=SWEEP), tmp_path, settings=gone, look=True, quiet=True)
    assert f"slw/learning_rate=0.03/seed-1 crashed: {FULL}" in str(result)
    assert "1 of 3 crashed at 0.03" in (tmp_path / "small.html").read_text(encoding="utf-8")


def test_a_value_is_named_with_all_its_digits(written: Written, tmp_path: Path) -> None:
    half_lives = [4_194_304, 8_388_608, 16_777_216]
    grid = f"\n[[grid]]\noptimizer.beta2_half_life = {half_lives}\n"
    comparison = read_comparison(written(more=grid))
    for run in comparison.runs:
        breaks = run.config.optimizer.beta2_half_life == half_lives[2]
        _plant(tmp_path, run, 5.0, "unstable" if breaks else "finished")
    (table,) = sweep_tables(comparison, groups(comparison, read_outcomes(comparison, tmp_path)[0]))
    assert {row[1:4] for row in table.rows} == {("4194304", "5.000", "16777216")}
