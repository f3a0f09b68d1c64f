"""The map of where runs break: every run has a line, recomputed from what was measured."""

import math
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.run.metrics import read_metrics
from lengthen.run.packed import opened
from scripts.results_tables import MAPS, filled
from scripts.study import carry_out_study, packed_beside
from scripts.study_map import Map, Point, main, map_table, read_map, sensitivity, sensitivity_table
from tests.experiments.conftest import FILE, train_here

RATES = (1e-4, 1e-2, 1e2)
GRID = f"""
[[grid]]
optimizer.learning_rate = {list(RATES)}
optimizer.min_learning_rate = {[rate / 10 for rate in RATES]}
"""


@pytest.fixture(scope="module")
def study(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed study of three rates, the last one far too high."""
    root = tmp_path_factory.mktemp("mapped")
    (root / "known").mkdir()
    text = FILE.format(store=store).replace(f'data.path = "{store}"\n', "")
    text = text.replace("[0, 1, 2]", "[7]").replace("6000", "12000")
    text += "\n[variants.baseline.optimizer]\nwarmup_steps = 3\n"
    text += "[variants.slw.optimizer]\nwarmup_steps = 3\n"
    text += "[variants.slw.evaluation]\nprobe_every_steps = 5\n"
    text += "[variants.baseline.evaluation]\nprobe_every_steps = 5\n" + GRID
    file = root / "map.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch, root / "known", {})
        carry_out_study(file, root / "runs", data=store)
    return file


@pytest.fixture(scope="module")
def found(study: Path) -> Map:
    """The map of that study."""
    return read_map([study])


def test_a_line_of_rates_is_that_of_one_variant(found: Map) -> None:
    assert [(line.variant, line.warmup, line.tokens) for line in found] == [
        ("baseline", 3, 512),
        ("slw", 3, 512),
    ]
    assert all([point.rate for point in points] == list(RATES) for points in found.values())


def test_the_figures_are_those_of_the_logs(found: Map, study: Path) -> None:
    with opened(packed_beside(study)) as folder:
        logs = [read_metrics(log.parent) for log in folder.rglob("metrics.jsonl")]
    ratios = {
        log.evaluations[-1].loss: [one.loss_ratio or 1 for one in log.probes if one.step > 3]
        for log in logs
        if log.evaluations
    }
    for points in found.values():
        for point in points:
            if math.isfinite(point.loss):
                assert point.ratio == max(ratios[point.loss], default=1)
                assert len(ratios[point.loss]) > 1


def test_a_rate_that_is_far_too_high_breaks(found: Map) -> None:
    for points in found.values():
        low, good, far = points
        best = min(point.loss for point in points)
        assert best == good.loss
        assert not good.breaks(best)
        assert far.breaks(best)
        assert low.breaks(best) == (low.loss > best + 0.3)
    said = {row[7]: row[-1] for row in map_table(found).rows if row[1] == "baseline"}
    assert said["0.01"] == "no"
    assert said["100"] == "yes, at more than 4 times the best rate"


def point(loss: float, *, start: float = 5.0, ratio: float = 1.0) -> Point:
    return Point(rate=1.0, loss=loss, start=start, ratio=ratio, norm=None, logit=None)


@pytest.mark.parametrize(
    ("loss", "ratio", "breaks"),
    [(4.3, 1.2, False), (4.31, 1.0, True), (4.0, 1.21, True), (math.inf, 1.0, True)],
)
def test_it_breaks_above_either_bound_alone(loss: float, ratio: float, breaks: bool) -> None:
    assert point(loss, ratio=ratio).breaks(4.0) is breaks


def test_a_line_on_which_no_run_ended_has_no_best_rate_and_all_of_it_breaks(found: Map) -> None:
    line = next(iter(found))
    nowhere = {line: [point(math.inf), point(math.inf)]}
    assert sensitivity(nowhere[line]) is None
    assert [row[-3:] for row in sensitivity_table(nowhere).rows] == [("-", "-", "-")]
    assert [(row[8], row[-1]) for row in map_table(nowhere).rows] == [("-", "yes")] * 2


@given(st.lists(st.floats(0.1, 20) | st.just(math.inf), min_size=1), st.floats(5, 10))
def test_sensitivity_counts_no_loss_beyond_the_start(losses: list[float], start: float) -> None:
    losses = [3.0, *losses]
    best = min(losses)
    said = sensitivity([point(loss, start=start) for loss in losses])
    assert said is not None
    assert said == pytest.approx(fmean(min(loss, start) for loss in losses) - best)
    assert said + 1e-12 >= 0
    assert said <= start - best + 1e-12 or best > start


def test_sensitivity_names_the_best_rate(found: Map) -> None:
    for row in sensitivity_table(found).rows:
        assert row[7:9] == ("0.0001, 0.01, 100", "0.01")


def test_a_page_has_both_as_the_runs_give_them(study: Path, found: Map) -> None:
    page = "".join(f"<!-- {kind}: {study.name} -->\n<!-- end -->\n" for kind in MAPS)
    rows = [line.strip("| ").split(" | ") for line in filled(page, study.parent).splitlines()]
    for table in (map_table(found), sensitivity_table(found)):
        assert all(list(row) in rows for row in table.rows)


def test_the_command_prints_both(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study)]) == 0
    printed = capsys.readouterr().out
    assert "The map" in printed
    assert "Sensitivity to the learning rate" in printed
    assert main([str(study.with_name("none.toml"))]) != 0
