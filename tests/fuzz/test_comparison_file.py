"""A comparison file."""

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


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparison") / "file.toml"


def test_the_file_that_is_spoiled_is_good(file: Path) -> None:
    for tables in (GOOD, FLOPS):
        file.write_text(tomli_w.dumps(tables))
        assert len(read_comparison(file).runs) == 12


@given(tables=tables_near(GOOD, values) | tables_near(FLOPS, values))
def test_comparisons_of_any_value(file: Path, tables: dict[str, Any]) -> None:
    file.write_text(tomli_w.dumps(tables), encoding="utf-8", errors="surrogatepass")
    held("comparison file", lambda: read_comparison(file))


@given(data=st.sampled_from([GOOD, FLOPS]).flatmap(lambda t: bytes_near(tomli_w.dumps(t).encode())))
def test_a_comparison_file_of_any_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    held("comparison file", lambda: read_comparison(file))
