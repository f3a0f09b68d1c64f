"""One decision for every "auto" of a comparison or a search, however often it goes on."""

import tomllib
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.distributed import auto
from tests.experiments.conftest import Written

DOUBLE = '[variants.double]\npacing.kind = "constant"\nrun.precision = "fp64"\n'


def units(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(auto, "has_matrix_units", lambda _: there)


def precisions(out: Path) -> dict[str, str]:
    files = sorted(out.glob("runs/*/*.toml"))
    read = {file: tomllib.loads(file.read_text()) for file in files}
    return {f"{f.parent.name}/{f.stem}": one["run"]["precision"] for f, one in read.items()}


@pytest.mark.usefixtures("in_this_process")
def test_all_runs_have_one_precision_also_those_that_another_machine_adds(
    written: Written,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    units(monkeypatch, True)
    words = ["--out", str(tmp_path / "out")]
    one = written(more=DOUBLE, **{"[0, 1, 2]": "[0]"})
    assert main(["compare", str(one), *words]) == 0
    assert 'run.precision = "auto" takes bf16' in capsys.readouterr().err
    units(monkeypatch, False)
    two = written(more=DOUBLE, **{"[0, 1, 2]": "[0, 1]"})
    assert main(["compare", str(two), *words, "--amend", "--quiet"]) == 0
    found = precisions(tmp_path / "out")
    assert {name: one for name, one in found.items() if "double" in name} == {
        "double/seed-0": "fp64",
        "double/seed-1": "fp64",
    }
    assert {one for name, one in found.items() if "double" not in name} == {"bf16"}
    assert len(found) == 6
    assert main(["compare", str(two), *words, "--look", "--quiet"]) == 0


def test_what_is_laid_out_for_a_cluster_is_decided_where_it_is_laid_out(
    written: Written,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    units(monkeypatch, True)
    words = ["compare", str(written()), "--lay-out", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out' / 'commands.txt'}\n"
    assert 'run.precision = "auto" takes bf16' in printed.err
    units(monkeypatch, False)
    assert main([*words, "--quiet"]) == 0
    assert not capsys.readouterr().err
    assert set(precisions(tmp_path / "out").values()) == {"bf16"}


@pytest.mark.usefixtures("in_this_process")
def test_a_comparison_from_before_this_was_written_down_goes_on_in_fp32(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units(monkeypatch, False)
    file = written(**{"[0, 1, 2]": "[0]"})
    words = ["compare", str(file), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 0
    declared = tmp_path / "out/small.declared.jsonl"
    old = declared.read_text().replace('"became":{"precision":"fp32","compile":"off"}', '"x":1')
    assert '"x":1' in old
    declared.write_text(old)
    units(monkeypatch, True)
    assert main(words) == 0
    assert set(precisions(tmp_path / "out").values()) == {"fp32"}
