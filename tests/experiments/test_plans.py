"""A plan of a comparison file: its variants, a row each."""

import pytest

import lengthen
from lengthen.cli.main import main
from lengthen.experiments.compare.file import read_comparison
from lengthen.util.errors import SettingError
from tests.experiments.conftest import Written


def test_a_comparison_file_is_planned_with_a_row_for_each_variant(written: Written) -> None:
    file = written()
    plans = lengthen.plan(file, flops="1G", quiet=True)
    (found,) = plans.parts
    assert not isinstance(found, str)
    assert [row[0] for row in found.rows] == ["baseline", "slw"]
    configs = {run.variant: run.config for run in read_comparison(file).runs}
    assert {one.name: one.plan.schedule.pacing for one in plans.forecasts} == {
        name: config.pacing for name, config in configs.items()
    }


def test_variants_of_one_name_in_two_files_are_both_planned(written: Written) -> None:
    file = written()
    other = file.with_name("other.toml")
    other.write_text(file.read_text())
    plans = lengthen.plan(file, other, flops="1G", quiet=True)
    names = [one.name for one in plans.forecasts]
    assert names == ["baseline", "slw", "other: baseline", "other: slw"]


def test_a_recipe_of_the_name_of_a_variant_does_not_take_its_place(written: Written) -> None:
    file = written()
    recipe = file.with_name("slw.toml")
    recipe.write_text(read_comparison(file).runs[0].config.to_toml())
    plans = lengthen.plan(file, recipe, flops="1G", quiet=True)
    assert [one.name for one in plans.forecasts] == ["baseline", "slw", "slw: slw"]


def test_a_mistake_in_a_comparison_that_is_planned_is_one_line(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(**{"heads = 2": "heads = 3"})
    assert main(["plan", str(file), "--flops", "1G"]) == 2
    assert capsys.readouterr().err == "lengthen: model.heads: must divide model.width (16), got 3\n"


def test_a_speed_that_no_number_holds_is_one_line(written: Written) -> None:
    with pytest.raises(SettingError, match="^--flops: must be below 10.300, got '1e400'$"):
        lengthen.plan(written(), flops="1e400", quiet=True)
