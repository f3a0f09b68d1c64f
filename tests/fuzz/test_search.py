"""What a search for start and duration is given: a settings file, and its own directory."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from lengthen.config.load import load
from lengthen.data.open_store import open_store
from lengthen.experiments.status import attempts_of_runs
from lengthen.experiments.tune.problem import Problem, define_problem
from lengthen.experiments.tune.run import begun_trials
from tests.conftest import Configure
from tests.fuzz.law import held
from tests.fuzz.spoiled import HUGE, bytes_near, json_values, scalars, tables_near
from tests.fuzz.test_settings_file import values

SETTING = {"start": 8, "multiple": 1, "rate": 1, "rows": 1, "opening": False}


@pytest.fixture(scope="module")
def problem(configured: Configure) -> Problem:
    config = configured(model={"length": 64}, budget={"tokens": 200_000})
    return define_problem(config, open_store(config), starts=[8, 16], judge_tokens=640)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@given(data=st.data(), starts=st.lists(st.integers(1, 70) | st.sampled_from(HUGE), max_size=3))
def test_a_training_that_is_asked_about(
    folder: Path, problem: Problem, data: st.DataObject, starts: list[int]
) -> None:
    tables: dict[str, Any] = data.draw(tables_near(problem.config.tables(), values))
    file = folder / "file.toml"
    file.write_text(tomli_w.dumps(tables), encoding="utf-8", errors="surrogatepass")

    def use() -> None:
        config = load(str(file))[0]
        define_problem(config, open_store(config), starts=starts, judge_tokens=640)

    held("tune file", use)


lines = st.fixed_dictionaries(
    {},
    optional={
        "run": st.sampled_from(["a", "start-8-T-4"]) | scalars,
        "event": st.sampled_from(["started", "ended"]) | scalars,
        "search": st.just({"starts": [8, 16], "aggressive": False}) | json_values,
        "setting": st.just(SETTING) | tables_near(SETTING) | json_values,
        "jobs": json_values,
        "threads": json_values,
        "message": json_values,
    },
).map(lambda line: json.dumps(line).encode())


@given(data=st.lists(lines | bytes_near(b'{"run": "a"}')).map(b"\n".join))
def test_attempts(folder: Path, problem: Problem, data: bytes) -> None:
    (folder / "attempts.jsonl").write_bytes(data)
    held("attempts.jsonl", lambda: list(begun_trials(problem, folder)))
    held("attempts.jsonl", lambda: attempts_of_runs(folder))
