"""A comparison is held to the file that it began with."""

import json
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.experiments.compare.declared import amendments, declare
from lengthen.experiments.compare.file import read_comparison
from lengthen.util.errors import DataError, SettingError
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
    assert "margin: was 0.02 when runs were started, got 0.03; batch.rows: was 8 when" in first
    assert first.startswith("Amended 2")
    assert " 0 runs finished: " in first
    assert second.count("margin: was 0.03") == 1
    assert "batch.rows" not in second


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
    assert told.endswith("0 runs finished: primary: must be at most 2 pairs, got 3")


def test_a_file_that_is_declared_after_runs_have_finished_says_so(
    written: Written, tmp_path: Path
) -> None:
    log = tmp_path / "runs/slw/seed-0/metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"kind":"event","event":"finished","step":1,"tokens":1}\n')
    declare(read_comparison(written()), tmp_path, amend=False)
    (told,) = amendments(read_comparison(written()), tmp_path)
    assert told.endswith("1 run finished: declared only then")


@pytest.mark.parametrize("line", ["{", "[]", "1", '{"file": 1}', '{"settings": {}, "file": 1}'])
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
