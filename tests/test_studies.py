"""The published studies: their runs give their tables, and the page on results has those."""

import json
import shutil
from pathlib import Path

import pytest

from lengthen.cli import main
from lengthen.compare.compare import compare
from scripts.early_gaps import rows
from scripts.publish_runs import publish
from scripts.results_figures import figures
from scripts.results_tables import filled, repeated
from tests.compare.conftest import FILE

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"
PUBLISHED = sorted(STUDIES.glob("*/*.json"))
JUDGED = sorted(STUDIES.glob("*/runs/**/evaluations.json"))


def test_the_page_on_results_has_the_tables_of_the_published_runs() -> None:
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert filled(page, ROOT) == page
    for path in PUBLISHED:
        assert f"<!-- tables: {path.relative_to(ROOT)} -->" in page
    names = " ".join(str(path.relative_to(ROOT)) for path in JUDGED)
    assert f"<!-- judged: {names} -->" in page


def test_that_page_says_how_far_two_starts_lie_apart_as_training_goes_on() -> None:
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    runs = STUDIES / "starts/runs"
    told = rows(runs / "start-8", runs / "start-32")
    assert len(told) == 6
    assert "\n".join(told) in page


def test_the_pictures_on_that_page_are_those_of_the_published_runs() -> None:
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for place, svg in figures(ROOT):
        assert place.read_text(encoding="utf-8") == svg
        assert f"({place.name})" in page


def facts(name: str, difference: str, interval: str) -> dict[str, object]:
    columns = ["pair", "verdict", "difference", "95 % interval"]
    table = {
        "title": "Verdicts",
        "columns": columns,
        "rows": [["a against b", "", difference, interval]],
    }
    return {"name": name, "tables": [table]}


@pytest.mark.parametrize(
    ("second", "both", "claimed"),
    [
        ("0.030", "0.010 to 0.070", "yes"),
        ("-0.030", "0.010 to 0.070", "no"),
        ("0.030", "-0.010 to 0.070", "no"),
        ("0.000", "0.010 to 0.070", "no"),
    ],
)
def test_only_what_was_seen_twice_and_leaves_out_zero_may_be_claimed(
    second: str, both: str, claimed: str
) -> None:
    files = (
        facts("one", "0.050", "-1 to 1"),
        facts("two", second, "-1 to 1"),
        facts("all", "1", both),
    )
    *_, row, _ = repeated(*files)
    assert row.rstrip(" |").endswith(claimed)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_runs_give_the_published_tables(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path.parent, tmp_path / "study")
    compare(STUDIES / f"{path.stem}.toml", tmp_path / "study", look=True, shown=False)
    assert (tmp_path / "study" / path.name).read_bytes() == path.read_bytes()


def test_publishing_leaves_out_what_belongs_to_one_machine(store: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "small.toml", tmp_path / "out"
    text = FILE.format(store=store).replace("[0, 1, 2]", "[0]")
    file.write_text(text.partition("[variants.slw]")[0], encoding="utf-8")
    compare(file, tmp_path / "small", shown=False)
    assert publish(tmp_path / "small", out) == 1
    (run,) = (path.parent for path in (tmp_path / "small/runs").rglob("metrics.jsonl"))
    assert main(["eval", str(run), "--tasks", "valid", "--limit", "2"]) == 0
    assert publish(tmp_path / "small", out) == 0
    texts = [path.read_text(encoding="utf-8") for path in out.rglob("*") if path.is_file()]
    assert len(texts) == 5
    assert not any(str(tmp_path) in text or str(store) in text for text in texts)
    compare(file, tmp_path / "small", look=True, shown=False)
    told = json.loads((tmp_path / "small/small.json").read_text())
    compare(file, out, look=True, shown=False)
    assert json.loads((out / "small.json").read_text()) == told
