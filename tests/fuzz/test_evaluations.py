"""The evaluations.json beside a run, and the rows of a set that is evaluated."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.evaluation import tables as evaluations
from lengthen.evaluation.results import Curve, Measure, Outcome, Result, read, write
from lengthen.evaluation.task_files import read_texts
from lengthen.reporting.panels import evaluation_panels
from lengthen.util.disk import Disk
from lengthen.util.tables import laid_out
from tests.fuzz.law import held
from tests.fuzz.spoiled import bytes_near, json_near, json_values

CURVE = Curve("loss by position", "position", (1.0, 2.0), (5.0, 4.0))
MEASURES = (Measure("accuracy", 0.5, 0.1, 0.25), Measure("loss", float("nan")))
OUTCOME = Outcome("valid", 3, 64, 0.5, MEASURES, (CURVE,), (("stride", "8"),), ("a note",))
RESULT = Result(None, 3, "fp32", {"shots": 0}, OUTCOME)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluations")


def show(path: Path) -> None:
    results = {"run": read(path)}
    for table in evaluations.tables(results):
        laid_out(table, 80)
    evaluation_panels(results)


@given(data=st.data())
def test_results(folder: Path, data: st.DataObject) -> None:
    write(Disk(), folder / "good.json", [RESULT])
    good = json.loads((folder / "good.json").read_bytes())
    (folder / "evaluations.json").write_bytes(data.draw(json_near(good)))
    held("evaluations.json", lambda: show(folder / "evaluations.json"))


rows = st.lists(
    st.dictionaries(st.sampled_from(["text", "x"]), json_values, max_size=2) | json_values
)


@given(data=rows.map(lambda found: "\n".join(map(json.dumps, found)).encode())
       | bytes_near(b'{"text": "one two"}\n'))  # fmt: skip
def test_the_rows_of_a_set(folder: Path, data: bytes) -> None:
    file = folder / "set.jsonl"
    file.write_bytes(data)
    held("evaluation set", lambda: read_texts([file]))
