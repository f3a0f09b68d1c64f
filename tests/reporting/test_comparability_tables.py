"""What runs share and where they differ."""

from typing import Any

import pytest

from lengthen.reporting.comparability import (
    alike,
    as_text,
    environment_tables,
    settings_table,
)
from tests.reporting.logs import run


def config(rate: float, seed: int, **more: object) -> dict[str, Any]:
    return {"optimizer": {"learning_rate": rate, "clip": 1.0}, "run": {"seed": seed, **more}}


def test_only_settings_that_differ_are_shown() -> None:
    table = settings_table(
        [run("a", config=config(0.001, 0)), run("b", config=config(0.01, 0, compile="on"))]
    )
    assert table is not None
    assert table.columns == ("", "a", "b")
    assert table.rows == (
        ("optimizer.learning_rate", "0.001", "0.01"),
        ("run.compile", "-", "on"),
    )


def test_runs_that_differ_in_their_seed_alone_are_one_under_their_folders_name() -> None:
    runs = [
        run(f"{name}/seed-{seed}", config=config(rate, seed))
        for name, rate in (("slow", 0.001), ("fast", 0.01))
        for seed in range(5)
    ]
    table = settings_table(runs)
    assert table is not None
    assert table.rows == (
        ("slow", "0.001"),
        ("fast", "0.01"),
    )


def test_seeds_are_shown_where_groups_have_others() -> None:
    runs = [run("a/0", config=config(1, 0)), run("a/1", config=config(1, 1))]
    for other, name in (("b", "a"), ("a/2", "a/0 and 1 more")):  # a folder of others names none
        table = settings_table([*runs, run(other, config=config(2, 7))])
        assert table is not None
        cells = {cell for row in (table.columns, *table.rows) for cell in row}
        assert {name, "0, 1", other, "7"} <= cells


def groups_of(*runs: tuple[str, int]) -> list[list[str]]:
    """Return the names of alike runs together; each has a name and a seed."""
    made = [run(name, config=config(1, seed)) for name, seed in runs]
    return [[one.name for one in members] for members in alike(made).values()]


def test_a_seed_once_more_is_no_further_seed() -> None:
    assert groups_of(("low", 7), ("high", 7)) == [["low"], ["high"]]
    assert groups_of(("seeds/0", 0), ("again", 0), ("seeds/1", 1)) == [
        ["seeds/0", "seeds/1"],
        ["again"],
    ]


def test_folders_tell_which_seeds_belong_together_whichever_are_missing() -> None:
    assert groups_of(("low/1", 1), ("high/0", 0), ("high/1", 1)) == [
        ["low/1"],
        ["high/0", "high/1"],
    ]
    assert groups_of(("a", 0), ("b", 1), ("c", 1)) == [["a"], ["b"], ["c"]]


def test_alike_runs_have_no_table_and_neither_have_foreign_logs() -> None:
    assert settings_table([run("a", config=config(1, 0)), run("b", config=config(1, 1))]) is None
    assert settings_table([run("a"), run("b")]) is None
    assert environment_tables([run("a")]) == []


@pytest.mark.parametrize(("runs", "settings"), [(30, 3), (3, 30)])
def test_the_table_grows_downwards_and_not_to_the_side(runs: int, settings: int) -> None:
    configs = [{"table": {f"s{n}": run * n for n in range(1, settings + 1)}} for run in range(runs)]
    table = settings_table([run(f"r{n}", config=c) for n, c in enumerate(configs)])
    assert table is not None
    assert (len(table.columns) - 1, len(table.rows)) == (3, 30)


def test_environments_are_split_into_what_is_common_and_what_is_not() -> None:
    packages = {"packages": {"torch": "2.13.0"}, "cores": 2}
    runs = [
        run("a", environment={**packages, "command": ["lengthen", "train", "my file"]}),
        run("b", environment={**packages, "command": ["lengthen"]}),
        run("foreign"),
    ]
    common, differing = environment_tables(runs)
    assert common.rows == (("packages.torch", "2.13.0"), ("cores", "2"))
    assert differing.rows == (("a", "lengthen train 'my file'"), ("b", "lengthen"))


def test_one_run_has_one_environment() -> None:
    (table,) = environment_tables([run("a", environment={"cores": 2})])
    assert (table.title, table.rows) == ("Environment", (("cores", "2"),))


def test_nested_tables_become_dotted_names() -> None:
    tables = {"a": {"b": {"c": 1}, "d": [0.9, 0.999]}, "e": None, "f": False, "g": "x"}
    assert as_text(tables) == {"a.b.c": "1", "a.d": "0.9, 0.999", "e": "-", "f": "false", "g": "x"}
