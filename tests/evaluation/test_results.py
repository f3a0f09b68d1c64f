"""The file of results: what is written comes back, whole or not at all."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lengthen.evaluation.results import (
    Curve,
    Measure,
    Outcome,
    Result,
    add,
    read,
    weights_at,
    write,
)
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, StorageError

OUTCOME = Outcome(
    task="valid",
    items=3,
    tokens=192,
    seconds=0.5,
    measures=(Measure("loss", 2.5, 0.125, 5.5), Measure("perplexity", 12.0)),
    curves=(Curve("loss by position", "position", (1.0, 2.5), (3.0, 2.0)),),
    settings=(("store", "store"),),
    notes=("a note",),
)
RESULT = Result(None, 70, "fp32", {"limit": 3}, OUTCOME)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "evaluations.json"


def test_what_is_written_comes_back(file: Path) -> None:
    write(Disk(), file, [RESULT, replace(RESULT, model="other", step=None)])
    assert read(file) == (RESULT, replace(RESULT, model="other", step=None))


def test_a_file_that_is_not_there_holds_nothing(file: Path) -> None:
    assert read(file) == ()


def test_what_is_not_finite_is_null_in_the_file_and_not_a_number_when_read(file: Path) -> None:
    infinite = replace(OUTCOME, measures=(Measure("perplexity", math.inf, math.nan),))
    spoiled = replace(infinite, curves=(Curve("c", "a", (1.0, 2.0), (math.nan, 2.0)),))
    write(Disk(), file, [replace(RESULT, outcome=spoiled)])
    assert "NaN" not in file.read_text(encoding="utf-8")
    (found,) = read(file)
    assert math.isnan(found.outcome.measures[0].value)
    assert found.outcome.measures[0].error is None
    assert math.isnan(found.outcome.curves[0].values[0])


def changed(**fields: Any) -> Result:
    outcome = fields.pop("outcome", {})
    return replace(RESULT, outcome=replace(OUTCOME, **outcome), **fields)


def test_a_later_answer_replaces_an_earlier_one_to_the_same_question(file: Path) -> None:
    add(Disk(), file, RESULT)
    later = changed(outcome={"tokens": 1})
    add(Disk(), file, later)
    assert read(file) == (later,)


@pytest.mark.parametrize(
    "other",
    [
        changed(model="another"),
        changed(step=80),
        changed(precision="fp64"),
        changed(options={}),
        changed(outcome={"task": "lambada"}),
        changed(outcome={"settings": (("store", "store"), ("store id", "other"))}),
        changed(outcome={"items": 4}),
        changed(model="run", weights="w2"),
    ],
    ids=["model", "step", "precision", "options", "task", "store", "items", "weights"],
)
def test_an_answer_to_another_question_stands_beside(file: Path, other: Result) -> None:
    add(Disk(), file, RESULT)
    add(Disk(), file, other)
    assert read(file) == (RESULT, other)


def test_a_store_that_moved_is_the_same_question(file: Path) -> None:
    add(Disk(), file, RESULT)
    moved = changed(outcome={"settings": (("store", "elsewhere"),)})
    add(Disk(), file, moved)
    assert read(file) == (moved,)


def test_other_weights_under_a_checkpoints_name_set_its_results_aside(file: Path) -> None:
    old = [changed(weights="w1"), changed(weights="w1", outcome={"task": "lambada"})]
    others = [changed(step=60, weights="w0"), changed(weights=None, outcome={"task": "piqa"})]
    write(Disk(), file, [*old, *others])
    new = changed(weights="w2", outcome={"task": "copa"})
    add(Disk(), file, new)
    assert read(file) == (*others, new)
    assert read(file.with_name("evaluations.discarded.json")) == tuple(old)
    add(Disk(), file, changed(weights="w3"))
    assert read(file.with_name("evaluations.discarded.json")) == (*old, new)


def test_in_a_file_of_several_models_one_name_may_be_two_models(file: Path) -> None:
    both = [changed(model="run", weights=weights) for weights in ("w1", "w2")]
    for one in both:
        add(Disk(), file, one)
    assert read(file) == tuple(both)


@pytest.mark.parametrize(
    "names", [["model.safetensors"], [f"model-r{n}.safetensors" for n in "01"]]
)
def test_the_weights_of_a_checkpoint_are_named_by_its_manifest(
    tmp_path: Path, names: list[str]
) -> None:
    files = {name: {"size": 1, "sha256": 64 * str(n)} for n, name in enumerate(names)}
    manifest = {"files": {"optimizer.safetensors": {"size": 1, "sha256": "o"}, **files}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    joined = hashlib.sha256((64 * "0" + 64 * "1").encode()).hexdigest()
    assert weights_at(tmp_path) == (64 * "0" if len(names) == 1 else joined)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": 1}', '{"files": {"model.x": 1}}', "[" * 9999]
)
def test_without_a_good_manifest_no_weights_are_named(tmp_path: Path, text: str) -> None:
    assert weights_at(tmp_path) is None
    (tmp_path / "manifest.json").write_text(text)
    assert weights_at(tmp_path) is None


def test_a_disk_that_fails_at_any_moment_leaves_the_earlier_results(file: Path) -> None:
    write(Disk(), file, [RESULT])
    counting = Disk()
    add(counting, file.with_name("elsewhere"), RESULT)
    for failing in range(1, counting.operations):  # the last one is after the rename

        def before(number: int, name: str, path: Path, failing: int = failing) -> None:
            if number == failing:
                raise OSError(28, name)

        with pytest.raises(StorageError):
            add(Disk(before), file, changed(step=80))
        assert read(file) == (RESULT,)


def with_fields(**fields: Any) -> bytes:
    outcome = {"task": "t", "items": 1, "tokens": 1, "seconds": 0.0, "measures": [], **fields}
    result = {"model": None, "step": 1, "precision": "fp32", "options": {}, "outcome": outcome}
    return json.dumps({"format": 1, "results": [result]}).encode()


CURVE = {"name": "c", "axis": "a", "at": [1.0], "values": [1.0]}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b'{"format": 2, "results": []}', "format: "),
        (b"[]", "as a whole: Input should be"),
        (with_fields(items="many"), "results.0.outcome.items: "),
        (with_fields(curves=[{**CURVE, "at": [1.0, 2.0]}]), "a value for each place"),
        (with_fields(curves=[{**CURVE, "at": [math.inf]}]), "curves.0.at.0: "),
    ],
)
def test_a_file_of_somebody_else_is_one_line(file: Path, content: bytes, cause: str) -> None:
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value).startswith(f"file {file}: holds no evaluations of this version (")
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)
