"""Packed studies: read as the directory that they were, or refused in one line."""

import tarfile
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.reporting.gather import gather
from lengthen.run.packed import opened
from lengthen.util.errors import DataError
from scripts.publish_runs import pack

LINE = '{"kind":"step","step":1,"tokens":8,"length":8,"rows":1,"loss":2.0}\n'


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for run in ("a/seed-0", "b/seed-0"):
        place = tmp_path / "folder/runs" / run
        place.mkdir(parents=True)
        (place / "metrics.jsonl").write_text(LINE)
    pack(tmp_path / "folder", tmp_path / "mine.tar.xz")
    return tmp_path / "mine.tar.xz"


def test_a_packed_study_opens_as_the_directory_that_it_was_and_leaves_nothing(study: Path) -> None:
    with opened(study) as folder:
        assert folder.name == "mine"
        assert (folder / "runs/a/seed-0/metrics.jsonl").read_text() == LINE
    assert not folder.exists()


def test_a_directory_is_opened_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        assert folder == tmp_path
    assert tmp_path.is_dir()


def test_equal_runs_pack_to_equal_bytes(study: Path, tmp_path: Path) -> None:
    with opened(study) as folder:
        pack(folder, tmp_path / "again.tar.xz")
    assert (tmp_path / "again.tar.xz").read_bytes() == study.read_bytes()


def test_report_reads_a_packed_study(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(study)]) == 0
    out = capsys.readouterr().out
    assert "a/seed-0: " in out
    assert "b/seed-0: " in out


@pytest.mark.parametrize("size", [0, 10, -10])
def test_a_cut_study_is_named_as_one(study: Path, size: int) -> None:
    study.write_bytes(study.read_bytes()[:size])
    with pytest.raises(DataError, match=r"mine.tar.xz: not a whole .tar.xz archive"), opened(study):
        pass


@pytest.mark.parametrize("name", ["../outside", "runs/../../outside", "/outside"])
def test_what_would_lie_outside_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="outside") as caught, opened(tmp_path / "bad.tar.xz"):
        pass
    assert str(caught.value).startswith(f"{tmp_path}/bad.tar.xz: holds a file outside of it, ")
    assert "lengthen-" not in str(caught.value)


def test_links_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("runs")
    link.type, link.linkname = tarfile.SYMTYPE, "."
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as archive:
        archive.addfile(link)
    with pytest.raises(DataError, match="holds a link or a device, 'runs'"):
        opened(tmp_path / "bad.tar.xz").__enter__()


def test_a_packed_study_is_not_trained(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "studies/small.toml", "--data", "store", "--out", str(study)]) == 2
    assert "--out: is a packed study, which is read and never trained" in capsys.readouterr().err


def test_a_study_without_runs_is_named_as_it_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder/runs").mkdir(parents=True)
    pack(tmp_path / "folder", tmp_path / "none.tar.xz")
    assert main(["report", str(tmp_path / "none.tar.xz")]) == 2
    assert capsys.readouterr().err.endswith("none.tar.xz'\n")  # a long path loses its middle


def test_a_run_of_another_comparison_is_named_by_the_study(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(study) as folder:
        run = folder / "runs/baseline/seed-0"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text(LINE)
        (run / "config.toml").write_text('recipe = "laptop-2min"\nmodel.layers = 1\n')
        pack(folder, tmp_path / "other.tar.xz")
    other = tmp_path / "other.tar.xz"
    assert main(["compare", "studies/small.toml", "--look", "--out", str(other)]) == 2
    assert f"{other}/runs/baseline/seed-0 holds a run with" in capsys.readouterr().err


def test_what_is_left_out_of_a_study_is_named_by_it(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(study) as folder:
        (folder / "runs/a/seed-0/environment.json").write_text("{")
        (folder / "runs/b/seed-0/evaluations.json").write_text("{")
        pack(folder, tmp_path / "damaged.tar.xz")
    assert main(["report", str(tmp_path / "damaged.tar.xz")]) == 0
    err = capsys.readouterr().err
    assert f"{tmp_path}/damaged.tar.xz/runs/a/seed-0/environment.json" in err
    assert f"{tmp_path}/damaged.tar.xz/runs/b/seed-0/evaluations.json" in err
    assert "lengthen-" not in err


def test_a_study_given_twice_is_shown_once_and_two_of_one_name_by_theirs(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other/mine.tar.xz"
    twin.write_bytes(study.read_bytes())
    names = [run.name for run in gather([study, study, twin])]
    assert len(names) == 4
    assert "other/mine.tar.xz/runs/b/seed-0" in names
    assert "lengthen-" not in "".join(names)


def test_a_file_that_is_a_directory_too_is_no_study(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as archive:
        archive.addfile(tarfile.TarInfo("runs"))
        archive.addfile(tarfile.TarInfo("runs/a"))
    with pytest.raises(DataError, match="not a whole .tar.xz"), opened(tmp_path / "bad.tar.xz"):
        pass
