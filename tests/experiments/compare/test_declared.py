"""A comparison is held to the file that it began with."""

import json
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.experiments.compare.declared import amendments, declare
from lengthen.experiments.compare.file import read_comparison
from lengthen.util.errors import DataError, SettingError
from tests.experiments.compare.test_seconds import TABLE
from tests.experiments.compare.test_seconds import TOP as TIMED
from tests.experiments.conftest import Written

NAME = "small.declared.jsonl"
PRIMARY = 'primary = [["slw", "baseline"]{more}]\nmargin = {margin}\nseeds ='


def begin(root: Path) -> None:
    (root / "runs").mkdir()


def primary(margin: float, more: str = "") -> dict[str, str]:
    return {"seeds =": PRIMARY.format(margin=margin, more=more)}


def test_a_file_may_change_until_a_run_is_started(written: Written, tmp_path: Path) -> None:
    for margin in (0.02, 0.01):
        declare(read_comparison(written(**primary(margin))), tmp_path, amend=False)
    (record,) = map(json.loads, (tmp_path / NAME).read_text().splitlines())
    assert record["file"]["margin"] == 0.01
    assert record["file"]["primary"] == [["slw", "baseline"]]
    begin(tmp_path)
    declare(read_comparison(written(**primary(0.01))), tmp_path, amend=False)
    assert amendments(read_comparison(written(**primary(0.01))), tmp_path) == []
    with pytest.raises(SettingError, match=r"^margin: was 0\.01 when runs were started, got 0\.03"):
        declare(read_comparison(written(**primary(0.03))), tmp_path, amend=False)


def test_every_amendment_is_recorded_and_told(written: Written, tmp_path: Path) -> None:
    declare(read_comparison(written(**primary(0.02))), tmp_path, amend=False)
    begin(tmp_path)
    for margin in (0.03, 0.04):
        asked = read_comparison(written(**primary(margin), **{"rows = 8": "rows = 16"}))
        with pytest.raises(SettingError, match="--amend goes on"):
            amendments(asked, tmp_path)
        declare(asked, tmp_path, amend=True)
    first, second = amendments(asked, tmp_path)
    assert {
        "margin: was 0.02 when runs were started, got 0.03",
        "batch.rows: was 8 when runs were started, got 16",
    } == {*first.split(": ", 1)[1].split("; ")}
    assert first.startswith("Amended 2")
    assert second.count("margin: was 0.03") == 1
    assert "batch.rows" not in second


def test_a_variant_that_came_or_went_is_one_change(written: Written, tmp_path: Path) -> None:
    more = "[variants.calm]\noptimizer.clip = 0.5\npacing.kind = 'constant'\n"
    for now, then in ((more, ""), ("", more)):
        root = tmp_path / f"{len(now)}"
        declare(read_comparison(written(more=then)), root, amend=False)
        begin(root)
        asked = read_comparison(written(more=now))
        declare(asked, root, amend=True)
        (told,) = amendments(asked, root)
        (change,) = told.split(": ", 1)[1].split("; ")
        assert change.startswith("variants: was ['")
        record = json.loads((root / NAME).read_text().splitlines()[-1])
        assert ("variants.calm.optimizer.clip" in record["file"]) == bool(now)


def test_more_than_two_primary_pairs_need_an_amendment(written: Written, tmp_path: Path) -> None:
    more = "".join(f"[variants.v{n}]\noptimizer.clip = 0.{n}\n" for n in (1, 2))
    pairs = primary(0.02, ', ["slw", "v1"], ["slw", "v2"]')
    asked = read_comparison(written(more=more, **pairs))
    with pytest.raises(SettingError, match="^primary: must be at most 2 pairs, got 3; --amend"):
        declare(asked, tmp_path, amend=False)
    declare(asked, tmp_path, amend=True)
    begin(tmp_path)
    declare(asked, tmp_path, amend=False)
    (told,) = amendments(asked, tmp_path)
    assert told.endswith(": primary: must be at most 2 pairs, got 3")


@pytest.mark.parametrize(
    "line", ["{", "[]", "1", '{"file": {}}', '{"time": "", "changes": [], "file": 1}']
)
def test_a_damaged_record_is_refused_in_one_line(
    written: Written, tmp_path: Path, line: str
) -> None:
    begin(tmp_path)
    (tmp_path / NAME).write_text(f"{line}\n")
    with pytest.raises(DataError, match="is damaged"):
        declare(read_comparison(written()), tmp_path, amend=False)


def test_an_amendment_is_for_what_is_trained(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(written()), "--out", str(tmp_path), "--look", "--amend"]) == 2
    assert capsys.readouterr().err == (
        "lengthen: --amend: is for what is trained from now on, got '--look'\n"
    )


@pytest.mark.parametrize(
    ("now", "change"),
    [
        ({"duration = 8": "duration = 9"}, "variants.slw.pacing.duration: was 8 when runs were st"),
        ({"[variants.slw]\n": "[variants.slw]\noptimizer.clip = 0.5\n"}, "was not set when runs"),
        ({"[variants.baseline]": "[variants.full]", '= "baseline"': '= "full"'}, "baseline: was"),
        ({"rows = 8, ": "rows = 8, hold = 'tokens', "}, "batch.hold: was not set when runs"),
    ],
)
def test_any_change_is_one_even_of_a_variant_that_has_not_begun(
    written: Written, tmp_path: Path, now: dict[str, str], change: str
) -> None:
    declare(read_comparison(written()), tmp_path, amend=False)
    begin(tmp_path)
    with pytest.raises(SettingError) as caught:
        declare(read_comparison(written(**now)), tmp_path, amend=False)
    assert change in str(caught.value)


def test_where_a_run_is_computed_and_on_which_store_is_no_change(
    written: Written, tmp_path: Path
) -> None:
    declare(read_comparison(written()), tmp_path, amend=False)
    begin(tmp_path)
    there = written(**{"micro_tokens = 512": "micro_tokens = 256"})
    elsewhere = {"data": {"path": "elsewhere"}, "run": {"device": "cpu"}}
    declare(read_comparison(there, elsewhere), tmp_path, amend=False)


def test_a_changed_table_of_seconds_is_a_change(written: Written, tmp_path: Path) -> None:
    file, table = written(**TIMED), tmp_path / "seconds.json"
    for seconds in (1e-5, 2e-5):
        table.write_text(json.dumps(TABLE | {"seconds_per_token": {"8": seconds, "64": 3e-5}}))
        if seconds == 1e-5:
            declare(read_comparison(file), tmp_path, amend=False)
            begin(tmp_path)
    with pytest.raises(SettingError, match=r"^seconds\.seconds_per_token\.8: was 1e-05 when runs"):
        declare(read_comparison(file), tmp_path, amend=False)
