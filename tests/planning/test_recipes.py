"""The list of recipes: what each trains, and a file of it that gives the very same training."""

from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.config.load import load
from lengthen.config.recipes import RECIPES
from lengthen.planning.recipes import recipes
from lengthen.run.metrics import read_metrics


def test_every_recipe_has_a_row_or_is_the_twin_of_one() -> None:
    names = {row[0] for row in recipes().rows}
    assert names | {f"{name}-baseline" for name in names} == RECIPES.keys()


def test_a_row_says_what_the_recipe_trains_and_a_larger_one_takes_longer() -> None:
    rows = {row[0]: row[1:] for row in recipes().rows}
    assert rows["gpt2-1.5b"][:6] == ("48", "1600", "25", "1024", "1.56B", "157B")
    assert rows["laptop-10min"][:4] == ("4", "128", "4", "256")
    sizes = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "years": 31_557_600}
    times = [rows[name][-1].replace(",", "").split() for name in ("laptop-2min", "laptop-10min")]
    seconds = [float(number) * sizes[unit] for number, unit in times]
    assert 0 < seconds[0] < seconds[1]
    assert rows["gpt2-1.5b"][-1].endswith(" years")


@pytest.mark.parametrize("name", RECIPES)
def test_a_printed_recipe_is_a_file_that_gives_the_same_configuration(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", name]) == 0
    file = tmp_path / "my.toml"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load(file) == load(name)


def test_a_printed_recipe_can_be_edited_and_trained(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "laptop-2min"]) == 0
    file, run = tmp_path / "my.toml", tmp_path / "run"
    text = capsys.readouterr().out.replace("tokens = 1500000", 'tokens = "20K"')
    text = text.replace("layers = 4", "layers = 1").replace("width = 64", "width = 16")
    file.write_text(text, encoding="utf-8")
    assert main(["train", str(file), "--data", str(store), "--out", str(run), "--quiet"]) == 0
    assert 15_000 < (read_metrics(run).steps[-1].tokens or 0) <= 20_000


def test_a_wrong_name_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "laptop-9min"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err == "lengthen: recipe: no such recipe, got 'laptop-9min'; did you mean 'laptop-2min'?\n"
    )
