"""Logs of other trainers: CSV and JSON lines."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.reporting.gather import gather
from lengthen.reporting.panels import panels_of
from lengthen.reporting.text import lines
from tests.fuzz.law import held
from tests.fuzz.spoiled import bytes_near, json_values, scalars

COLUMNS = {"step": "s", "tokens": "t", "loss": "l", "eval_loss": "v", "grad_norm": "g", "rows": "r"}
ROWS = [{"s": n, "t": 64 * n, "l": 5.0 - n, "v": 5.0, "g": 1.0, "r": 8} for n in range(4)]
rows = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys("stlvgrx", st.integers(0, 9) | json_values)),
    max_size=6,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign") / "log.csv"


def as_csv(given: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list("stlvgr"), extrasaction="ignore", delimiter=delimiter)
    writer.writeheader()
    writer.writerows(given)
    return text.getvalue().encode("utf-8", "surrogatepass")


def as_objects(given: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in given)


def read(file: Path, columns: dict[str, str]) -> None:
    runs = gather([file], columns, note=lambda _: None)
    list(lines(runs))
    panels_of(runs)


def test_the_logs_that_are_spoiled_are_good(file: Path) -> None:
    for form in (as_csv, as_objects):
        file.write_bytes(form(ROWS))
        assert held("foreign log", lambda: read(file, COLUMNS)) == ""


@given(rows=rows, objects=st.booleans())
def test_cells_of_any_value(file: Path, rows: list[dict[str, Any]], objects: bool) -> None:
    file.write_bytes(as_objects(rows) if objects else as_csv(rows))
    held("foreign log", lambda: read(file, COLUMNS))


@given(data=bytes_near(as_csv(ROWS)) | bytes_near(as_objects(ROWS)))
def test_a_log_of_any_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    held("foreign log", lambda: read(file, COLUMNS))


names = st.sampled_from([*COLUMNS, "probe_loss", "x"]) | st.text(max_size=3)


@given(columns=st.dictionaries(names, st.sampled_from("stlvgrx") | scalars.map(str), max_size=4))
def test_columns_of_any_name(file: Path, columns: dict[str, str]) -> None:
    file.write_bytes(as_csv(ROWS))
    held("foreign log", lambda: read(file, columns))
