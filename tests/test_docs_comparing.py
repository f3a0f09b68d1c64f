"""The page on comparing and the files of a comparison, held to the code."""

import json
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from lengthen.analysis.external_logs import NAMES
from lengthen.experiments.compare.compare import compare
from lengthen.experiments.compare.file import OWN, read_comparison
from lengthen.experiments.compare.verdicts import Verdict, Within
from lengthen.util.stats import power, smallest_effect
from lengthen.util.tables import Table
from tests.experiments.conftest import FILE, train_here
from tests.test_docs import (
    DOCS,
    FENCE,
    ROOT,
    first_names,
    names_in,
    options_of,
    read,
    rows_of,
    section,
)

READY_MADE = [*(ROOT / "examples").glob("*.toml"), *(ROOT / "studies").glob("*.toml")]


@pytest.fixture(scope="module")
def compared(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a comparison of one run."""
    file = tmp_path_factory.mktemp("asked") / "NAME.toml"
    text = FILE.format(store=store).replace("[0, 1, 2]", "[0]")
    file.write_text(text.partition("[variants.slw]")[0], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch, tmp_path_factory.mktemp("runs"), {})
        compare(file, file.parent / "out", quiet=True)
    return file.parent / "out"


def long_options(command: str) -> set[str]:
    return {name for name in options_of(command) if name.startswith("--")} - {"--help"}


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("## The file", {"recipe", "same_tokens_as", "same_seconds_as", *OWN}),
        ("## Verdicts", {*get_args(Verdict), *get_args(Within)}),
        ("## Ready-made files", {f"{one.parent.name}/{one.name}" for one in READY_MADE}),
        ("### Logs of other trainers", set(NAMES)),
        *((f"### Options of `{name}`", long_options(name)) for name in ("compare", "report")),
        ("### Options of `watch`", long_options("watch")),
    ],
)
def test_the_page_on_comparing_names_all_that_there_is(heading: str, expected: set[str]) -> None:
    assert first_names(section(read(DOCS / "comparing.md"), heading)) == expected


def test_the_comparison_that_is_shown_first_can_be_read(tmp_path: Path) -> None:
    text = read(DOCS / "comparing.md")
    file = tmp_path / "question.toml"
    file.write_text(next(body for kind, body in FENCE.findall(text) if kind == "toml"))
    assert read_comparison(file).variants == ("baseline", "slw", "rows")


def test_the_power_on_the_page_is_what_the_code_works_out() -> None:
    rows = list(rows_of(section(read(DOCS / "comparing.md"), "## How many seeds")))
    assert len(rows) == 8
    for number, (seeds, *shown) in enumerate(rows):
        n = int(seeds.split(",")[0])
        alpha = 0.05 if number < 4 else 0.05 / 6
        for effect, cell in enumerate(shown[:3], start=1):
            assert abs(float(cell.split()[0]) - 100 * power(n, effect, alpha)) <= 0.0501
        assert shown[3] == f"{smallest_effect(n, alpha):.2f} sd"


def test_the_page_on_files_has_every_file_of_a_comparison(compared: Path) -> None:
    tree = section(read(DOCS / "files.md"), "## Comparison")
    beside = [path for path in (compared / "runs" / "baseline").iterdir() if path.is_file()]
    for path in [*compared.iterdir(), *beside]:
        assert f"  {path.name}" in tree


def test_the_page_on_files_has_every_field_of_a_comparison(compared: Path) -> None:
    text = section(read(DOCS / "files.md"), "## Comparison")
    facts = json.loads(read(compared / "NAME.json"))
    rows = {names_in(row[0])[0]: names_in(row[1]) for row in rows_of(text)}
    attempts = [json.loads(line) for line in read(compared / "attempts.jsonl").splitlines()]
    assert {*facts, *(one.name for one in fields(Table))} == rows.keys() - {"started", "ended"}
    assert all(record.keys() - {"event"} == set(rows[record["event"]]) for record in attempts)
    assert {record["event"] for record in attempts} == {"started", "ended"}
