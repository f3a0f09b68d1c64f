"""The published studies: their runs give their tables, and the pages on results have those."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lengthen.cli.main import main
from lengthen.experiments.compare.compare import compare
from lengthen.experiments.compare.file import read_comparison
from lengthen.run.packed import opened
from scripts.early_gaps import rows
from scripts.publish_runs import publish
from scripts.results_figures import figures
from scripts.results_tables import PAGES, filled, repeated
from tests.experiments.conftest import FILE, train_here
from tests.reporting.drawn import as_shares, colours, lines, names

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"
# Beside these lie the tables of seconds that studies name.
PUBLISHED = [path for path in sorted(STUDIES.glob("*.json")) if path.with_suffix(".toml").exists()]
PAGE = "".join((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
NO_STUDY = {"pilot.tar.xz"}  # runs that were stopped early, of no one file
PACKED = {"repeat": "large-batch", "eight-seeds": "large-batch"}  # files that share another's runs


def test_the_pages_on_results_have_the_tables_of_the_published_runs() -> None:
    assert filled(PAGE, ROOT) == PAGE
    for path in PUBLISHED:
        assert str(path.with_suffix(".toml").relative_to(ROOT)) in PAGE
    assert "<!-- judged: studies/timed.tar.xz -->" in PAGE


def test_they_say_how_far_two_starts_lie_apart_as_training_goes_on() -> None:
    told = rows(STUDIES / "starts.tar.xz", "start-8", "start-32")
    assert len(told) == 6
    assert "\n".join(told) in PAGE


def test_their_pictures_are_those_of_the_published_runs() -> None:
    for place, svg in figures(ROOT):
        assert f"({place.name})" in PAGE
        published = place.read_bytes()
        assert names(published) == names(svg)
        assert colours(published) == colours(svg)
        # Another matplotlib may give a panel another size; its curves keep their shape.
        for curves, now in zip(lines(published).values(), lines(svg).values(), strict=True):
            for points, expected in zip(as_shares(curves), as_shares(now), strict=True):
                assert len(points) == len(expected)
                assert np.allclose(points, expected, atol=1e-3)


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
    packed = f"{PACKED.get(path.stem, path.stem)}.tar.xz"
    shutil.copy(STUDIES / packed, tmp_path)
    compare(STUDIES / f"{path.stem}.toml", tmp_path / packed, look=True, quiet=True)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def is_under_way(packed: Path) -> bool:
    """Whether runs of a packed study are still to come."""
    with opened(packed) as folder:
        ended = len(list(folder.rglob("metrics.jsonl")))
    name = packed.name.removesuffix(".tar.xz")
    return ended < len(read_comparison(STUDIES / f"{name}.toml").runs)


def test_every_packed_study_is_small_and_when_it_has_ended_its_tables_are_published() -> None:
    packed = sorted(STUDIES.glob("*.tar.xz"))
    studies = [path for path in packed if path.name not in NO_STUDY]
    assert {PACKED.get(path.stem, path.stem) for path in PUBLISHED} == {
        path.name.removesuffix(".tar.xz") for path in studies if not is_under_way(path)
    }
    assert sum(path.stat().st_size for path in packed) < 20e6
    assert not [path for path in STUDIES.iterdir() if path.is_dir()]


def test_publishing_leaves_out_what_belongs_to_one_machine(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "known").mkdir()
    train_here(monkeypatch, tmp_path / "known", {})
    file, study = tmp_path / "small.toml", tmp_path / "published/small.tar.xz"
    study.parent.mkdir()
    text = FILE.format(store=store).replace("[0, 1, 2]", "[0]")
    file.write_text(text.partition("[variants.slw]")[0], encoding="utf-8")
    compare(file, tmp_path / "small", quiet=True)
    assert publish(tmp_path / "small", study) == 1
    (run,) = (path.parent for path in (tmp_path / "small/runs").rglob("metrics.jsonl"))
    assert main(["eval", str(run), "--tasks", "valid", "--limit", "2"]) == 0
    assert publish(tmp_path / "small", study) == 0
    data = study.read_bytes()
    assert publish(tmp_path / "small", study) == 0
    assert study.read_bytes() == data
    with opened(study) as folder:
        texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()]
    assert len(texts) == 6
    assert not any(str(tmp_path) in text or str(store) in text for text in texts)
    compare(file, tmp_path / "small", look=True, quiet=True)
    told = json.loads((tmp_path / "small/small.json").read_text())
    compare(file, study, look=True, quiet=True)
    assert json.loads((study.parent / "small.json").read_text()) == told
