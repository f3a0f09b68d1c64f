"""The figures of a packed study: recomputed from what was measured, and the page has them."""

import json
import xml.etree.ElementTree as xml
from pathlib import Path
from statistics import fmean

import pytest

from lengthen.config.load import load_run
from lengthen.model import cost
from lengthen.run.metrics import read_metrics
from lengthen.run.packed import opened
from lengthen.util.errors import SettingError
from scripts.results_figures import savings
from scripts.results_tables import filled
from scripts.study import carry_out_study, packed_beside
from scripts.study_figures import TABLES, main
from scripts.study_runs import read_studies
from tests.experiments.conftest import FILE, train_here
from tests.reporting.drawn import lines, names

EACH = {8: 1e-3, 64: 3e-3}  # seconds a token by length
CURVE = """
[[grid]]
budget.tokens = [3000, 4500]
"""


@pytest.fixture(scope="module")
def studies(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two packed studies, the second with the points of the first one's curve, and the seconds."""
    root = tmp_path_factory.mktemp("published")
    (root / "studies").mkdir()
    (root / "docs").mkdir()
    (root / "known").mkdir()
    files = [root / "studies/small.toml", root / "studies/small-curve.toml"]
    text = FILE.format(store=store).replace(f'data.path = "{store}"\n', "")
    files[0].write_text(text, encoding="utf-8")
    alone = text.partition("[variants.slw]")[0].replace("[0, 1, 2]", "[0, 1]")
    files[1].write_text(alone.replace("budget.tokens = 6000", "") + CURVE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch, root / "known", {})
        for file in files:
            carry_out_study(file, root / file.stem, data=store, windows=(16,))
    model = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 257, "positions": "learned"}
    table = {"format": 1, "processor": "made up", "model": model, "seconds_per_token": EACH}
    (root / "studies/seconds.json").write_text(json.dumps(table))
    return [*files, root / "studies/seconds.json"]


def cells(name: str, files: list[Path], row: str) -> list[tuple[str, ...]]:
    table = TABLES[name](read_studies(files))
    return [each for each in table.rows if each[0] == row]


def test_seconds_and_operations_are_the_sums_over_the_steps(studies: list[Path]) -> None:
    with opened(packed_beside(studies[0])) as folder:
        run = folder / "runs/slw/seed-0"
        steps, model = read_metrics(run).steps, load_run(run / "config.toml").model
    seconds, flops = 0.0, 0
    for step in steps:
        assert step.rows
        assert step.length
        share = (step.length - 8) / (64 - 8)
        seconds += step.rows * step.length * ((1 - share) * EACH[8] + share * EACH[64])
        flops += cost.flops(model, step.rows, step.length)
    ((_, tokens, shown, part, *_, full),) = cells("seconds", studies, "slw")
    assert tokens == f"{steps[-1].tokens:,}"
    assert shown == f"{seconds:,.0f}"
    ((_, _, whole, *_),) = cells("seconds", studies, "baseline")
    assert float(part) == pytest.approx(seconds / float(whole), abs=0.02)
    assert full == f"{flops:.3g}"


def test_the_baseline_on_fewer_tokens_is_its_curve_and_no_rival(studies: list[Path]) -> None:
    study = read_studies(studies)
    assert [one.name for one in study.rivals] == ["slw"]
    assert {seed: curve.own for seed, curve in study.curves.items()} == {
        0: True,
        1: True,
        2: False,
    }
    for seed in (0, 1):
        losses = [loss for _, loss in study.curves[seed].points]
        members = [one for one in study.variants if one.on_curve and one is not study.base]
        assert losses == [*(one.losses()[seed] for one in members), study.base.losses()[seed]]
    assert [round(seconds) for seconds, _ in study.curves[0].points] == [9, 13, 18]


def test_the_savings_are_of_each_seed_and_their_mean(studies: list[Path]) -> None:
    rows = cells("saving", studies, "slw")
    assert [(row[1], row[-1]) for row in rows] == [
        ("0", "own"),
        ("1", "own"),
        ("2", "moved"),
        ("mean of 3", "all"),
        ("mean of 2", "own"),
    ]
    study = read_studies(studies)
    for (run, saved), row in zip(study.savings(study.rivals[0]).values(), rows, strict=False):
        assert row[2] == f"{run.loss:.3f}"
        assert str(saved) == row[5]


def test_final_losses_are_paired_by_seed(studies: list[Path]) -> None:
    ((*_, mean, gap),) = cells("losses", studies, "slw")
    study = read_studies(studies)
    ours, theirs = study.rivals[0].losses(), study.base.losses()
    assert mean == f"{fmean(ours.values()):.3f}"
    assert gap.split()[0] == f"{fmean(ours[seed] - theirs[seed] for seed in theirs):.3f}"


def test_the_whole_part_is_told_by_quarter_and_window(studies: list[Path]) -> None:
    study = read_studies(studies)
    columns = TABLES["whole"](study).columns
    assert columns[2:] == (
        "loss",
        *(f"loss in quarter {number}" for number in (1, 2, 3, 4)),
        "loss at length 16",
    )
    assert TABLES["gain"](study).columns[-1] == "context gain over 16"
    assert len(TABLES["gain"](study).rows) == 2 * 3 + 2 * 2
    assert "slw" in {row[0] for row in TABLES["quarters"](study).rows}


def test_the_page_has_what_the_command_prints(
    studies: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*map(str, studies), "--picture", str(tmp_path / "small")]) == 0
    printed = capsys.readouterr().out
    root = studies[0].parents[1]
    named = " ".join(f"studies/{file.name}" for file in studies)
    blocks = [f"<!-- {kind}: {named} -->\n<!-- end -->\n" for kind in TABLES]
    page = filled("".join([*blocks, "<!-- verdicts: studies/small.json --><!-- end -->"]), root)
    assert filled(page, root) == page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    for row in rows:
        for cell in row.strip("| ").split(" | "):
            assert cell.strip() in printed
    (root / "docs/results.md").write_text(page)
    ((place, svg),) = savings(root)
    assert place.name == "results-small.svg"
    assert (tmp_path / "small.svg").read_bytes() == svg
    assert (tmp_path / "small.png").stat().st_size > 10_000


def test_the_picture_has_the_curve_and_a_mark_for_every_rival(
    studies: list[Path], tmp_path: Path
) -> None:
    assert main([*map(str, studies), "--picture", str(tmp_path / "small")]) == 0
    svg = (tmp_path / "small.svg").read_bytes()
    xml.fromstring(svg)
    assert {"baseline", "slw", "seconds, by the table"} <= set(names(svg))
    curve, mark = lines(svg)[0]
    assert (len(curve), len(mark)) == (3, 6)
    assert len({x for x, _ in mark}) == 3
    assert len(lines(svg)[1]) == 2


def test_a_study_without_seconds_and_one_of_another_length_are_one_line(
    studies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(studies[0])]) == 2
    assert "seconds: has no table of seconds" in capsys.readouterr().err
    with pytest.raises(SettingError, match=r"STUDY.toml: names no study"):
        read_studies(studies[2:])
