"""What may be written over: an empty directory, or an earlier output of the same command."""

from pathlib import Path

import pytest

from lengthen.util.errors import SettingError
from lengthen.util.overwrite import check_directory, check_file


def is_cake(names: set[str]) -> bool:
    return names <= {"icing", "crumbs"}


def check(out: Path, *, overwrite: bool) -> None:
    check_directory(out, "cake", is_cake, overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_there_or_empty_is_free(tmp_path: Path, overwrite: bool) -> None:
    check(tmp_path / "absent", overwrite=overwrite)
    check(tmp_path, overwrite=overwrite)


def test_an_earlier_output_goes_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "icing").touch()
    with pytest.raises(SettingError, match="--overwrite replaces the earlier cake"):
        check(tmp_path, overwrite=False)
    check(tmp_path, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_somebody_else_wrote_stays(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "icing").touch()
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SettingError, match="holds other things and is no cake"):
        check(tmp_path, overwrite=overwrite)
    with pytest.raises(SettingError, match="must be a directory"):
        check(tmp_path / "icing", overwrite=overwrite)


def test_what_stays_is_named_whatever_letter_it_begins_with(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SettingError, match="holds other things and is no exported model"):
        check_directory(tmp_path, "exported model", is_cake, overwrite=False)


def test_a_file_is_replaced_by_one_of_its_kind_alone(tmp_path: Path) -> None:
    page = tmp_path / "page"
    check_file(page, "cake", lambda path: False)
    page.touch()
    check_file(page, "cake", lambda path: True)
    with pytest.raises(SettingError, match="is no cake, so it stays"):
        check_file(page, "cake", lambda path: False)
    with pytest.raises(SettingError, match="is no cake, so it stays"):
        check_file(tmp_path, "cake", lambda path: True)
