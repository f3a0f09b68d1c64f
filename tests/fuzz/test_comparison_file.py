"""A comparison file."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from lengthen.experiments.compare.file import read_comparison
from tests.fuzz.law import held
from tests.fuzz.spoiled import bytes_near, tables_near
from tests.fuzz.test_settings_file import GOOD as SETTINGS
from tests.fuzz.test_settings_file import values

GOOD: dict[str, Any] = {
    **SETTINGS,
    "baseline": "plain",
    "seeds": [0, 1],
    "variants": {
        "plain": {"pacing": {"kind": "constant"}},
        "slw": {"pacing": {"kind": "linear", "start": 8, "duration": 6}},
        "rows": {"same_tokens_as": "slw"},
    },
    "grid": [{"optimizer": {"learning_rate": [1e-3, 1e-2], "min_learning_rate": [0.0, 1e-4]}}],
}
GOOD.pop("run")
FLOPS = {**GOOD, "flops": "1e10"}
DECLARED = {
    **GOOD,
    "primary": [["plain", "slw"], ["rows", "slw"]],
    "margin": 0.02,
    "seconds": "seconds.json",
    "variants": {**GOOD["variants"], "rows": {"same_seconds_as": "slw"}},
}
COMMAND: dict[str, Any] = {
    "command": ["train", "--seed={seed}", "--out={out}", "{lr}", "{decay}"],
    "resumes": True,
    "log": {"kind": "table", "file": "l", "step": "s", "tokens": "t", "validation_loss": "v"},
    "seeds": [0, 1],
    "variants": {"plain": {"lr": 1e-3}, "calm": {"lr": 1e-4}, "named": {"lr": "low"}},
    "grid": [{"decay": [0.0, 0.1]}],
}
FILES = (GOOD, FLOPS, DECLARED, COMMAND)
TABLE = {
    "format": 1,
    "device": "a core",
    "model": {**GOOD["model"], "positions": "learned"},
    "seconds_per_token": {"8": 1e-5, "64": 2e-5},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "seconds.json").write_text(json.dumps(TABLE))
    return folder / "file.toml"


def test_the_file_that_is_spoiled_is_good(file: Path) -> None:
    for tables in FILES:
        file.write_text(tomli_w.dumps(tables))
        assert len(read_comparison(file).runs) == 12


@given(tables=st.one_of([tables_near(one, values) for one in FILES]))
def test_comparisons_of_any_value(file: Path, tables: dict[str, Any]) -> None:
    file.write_text(tomli_w.dumps(tables), encoding="utf-8", errors="surrogatepass")
    held("comparison file", lambda: read_comparison(file))


@given(data=st.sampled_from(FILES).flatmap(lambda t: bytes_near(tomli_w.dumps(t).encode())))
def test_a_comparison_file_of_any_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    held("comparison file", lambda: read_comparison(file))


@given(table=tables_near(TABLE))
def test_tables_of_seconds_of_any_value(file: Path, table: dict[str, Any]) -> None:
    place = file.with_name("spoiled.json")
    place.write_text(json.dumps(table))
    file.write_text(tomli_w.dumps({**DECLARED, "seconds": place.name}))
    held("table of seconds", lambda: read_comparison(file))


@given(data=bytes_near(json.dumps(TABLE).encode()))
def test_a_table_of_seconds_of_any_bytes(file: Path, data: bytes) -> None:
    file.with_name("spoiled.json").write_bytes(data)
    file.write_text(tomli_w.dumps({**DECLARED, "seconds": "spoiled.json"}))
    held("table of seconds", lambda: read_comparison(file))
