"""A run's metrics.jsonl and environment.json, as the report and the live view read them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.config.load import load
from lengthen.experiments.status import run_status
from lengthen.reporting.comparability import environment_tables, settings_table
from lengthen.reporting.gather import gather
from lengthen.reporting.panels import panels_of
from lengthen.reporting.text import lines
from lengthen.reporting.watch import Follower, View, drawn, plain
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import last_record
from tests.fuzz.law import held
from tests.fuzz.spoiled import HOSTILE, bytes_near, json_near, json_values, scalars

FIELDS = ["step", "tokens", "seconds", "length", "rows", "loss", "loss_ratio", "finite", "lr",
          "variance_norm", "variance_max", "grad_norm", "joined", "split", "perplexity", "event",
          "side_tokens", "side_seconds", "next_length", "in_a_row", "x"]  # fmt: skip
KINDS = ["step", "eval", "probe", "observation", "event", "x"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("metrics") / "run"))


def read(run: Path) -> None:
    """All that looks at a log: the report, the live view, a comparison."""
    paths = RunPaths(run)
    last_record(paths.metrics)
    run_status(run, load(str(paths.config))[0])
    follower = Follower(paths.metrics)
    follower.catch_up()
    view = View("run", follower.summary, 4000, None, "", 0.0)
    plain(view)
    drawn([view], 80)
    drawn([view, view], 80)
    runs = gather([run], note=lambda _: None)
    list(lines(runs))
    panels_of(runs)
    settings_table([*runs, *runs])
    environment_tables(runs)


def test_the_log_that_is_spoiled_is_good(run: Path) -> None:
    assert held("metrics.jsonl", lambda: read(run)) == ""


@given(data=st.data())
def test_f51_a_log_with_odd_values_in_it(copied: Path, run: Path, data: st.DataObject) -> None:
    good = RunPaths(run).metrics.read_bytes().splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        number = data.draw(st.integers(0, len(good) - 1))
        record = json.loads(good[number]) if good[number].startswith(b"{") else {}
        record |= data.draw(st.dictionaries(st.sampled_from(FIELDS), scalars, max_size=3))
        good[number] = json.dumps(record).encode()
    RunPaths(copied).metrics.write_bytes(b"\n".join(good) + b"\n")
    held("metrics.jsonl", lambda: read(copied))


@given(
    records=st.lists(
        st.fixed_dictionaries(
            {"kind": st.sampled_from(KINDS), "step": st.integers(0, 5) | scalars},
            optional=dict.fromkeys(FIELDS[1:], json_values),
        ),
        max_size=8,
    )
)
def test_f51_a_log_of_other_lines(copied: Path, records: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(record) + "\n" for record in records)
    RunPaths(copied).metrics.write_text(text)
    held("metrics.jsonl", lambda: read(copied))


@given(data=st.data())
def test_f50_a_log_of_any_bytes(copied: Path, run: Path, data: st.DataObject) -> None:
    good = b"".join(RunPaths(run).metrics.read_bytes().splitlines(keepends=True)[:6])
    RunPaths(copied).metrics.write_bytes(data.draw(bytes_near(good) | st.sampled_from(HOSTILE)))
    held("metrics.jsonl", lambda: read(copied))


@given(data=st.data())
def test_an_environment(copied: Path, run: Path, data: st.DataObject) -> None:
    RunPaths(copied).metrics.write_bytes(RunPaths(run).metrics.read_bytes())
    good = json.loads(RunPaths(run).environment.read_bytes())
    RunPaths(copied).environment.write_bytes(data.draw(json_near(good)))
    held("environment.json", lambda: read(copied))
