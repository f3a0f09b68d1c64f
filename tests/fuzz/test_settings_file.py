"""A settings file."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from lengthen.config.load import load
from lengthen.config.recipes import RECIPES
from tests.fuzz.law import held
from tests.fuzz.spoiled import bytes_near, numbers, tables_near, words

GOOD: dict[str, Any] = {
    "data": {"path": "store"},
    "model": {"layers": 1, "width": 16, "heads": 2, "length": 64, "vocabulary": 257},
    "pacing": {"kind": "linear", "of": "length", "start": 8, "duration": 12, "multiple": 8},
    "batch": {"rows": 8, "micro_tokens": 256, "hold": "rows", "leftovers": "requeue"},
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 4, "betas": [0.9, 0.999]},
    "budget": {"tokens": 10_000},
    "evaluation": {"every_steps": 5, "tokens": "2K", "probe_every_steps": 7},
    "saving": {"every_steps": 1, "keep": 3, "asynchronous": False},
    "run": {"seed": 1, "device": "cpu", "precision": "fp32", "on_nonfinite": "skip"},
}
KINDS = ["constant", "linear", "root", "doubling", "staged", "adaptive"]
# TOML has no null and no whole number above 64 bits that every reader takes.
scalars = st.booleans() | numbers | words | st.sampled_from([*KINDS, "rows", "auto", "1.5B"])
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(words, scalars, max_size=2)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "file.toml"


@given(tables=tables_near(GOOD, values), recipe=st.none() | st.sampled_from([*RECIPES, "x"]))
def test_f46_settings_of_any_value(file: Path, tables: dict[str, Any], recipe: str | None) -> None:
    named = tables if recipe is None else {"recipe": recipe, **tables}
    file.write_text(tomli_w.dumps(named), encoding="utf-8", errors="surrogatepass")
    held("settings file", lambda: load(str(file)))


@given(
    kind=st.sampled_from(KINDS),
    pacing=st.dictionaries(
        st.sampled_from(
            [
                "start",
                "end",
                "duration",
                "multiple",
                "degree",
                "values",
                "boundaries",
                "patience",
                "max_hold",
                "of",
                "x",
            ]
        ),
        values,
        max_size=5,
    ),
)
def test_f46_a_pacing_of_any_value(file: Path, kind: str, pacing: dict[str, Any]) -> None:
    file.write_text(
        tomli_w.dumps({**GOOD, "pacing": {"kind": kind, **pacing}}), errors="surrogatepass"
    )
    held("settings file", lambda: load(str(file)))


@given(data=bytes_near(tomli_w.dumps(GOOD).encode()))
def test_f46_a_settings_file_of_any_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    held("settings file", lambda: load(str(file)))
