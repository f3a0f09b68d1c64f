"""Other trainers' logs: read as ours, up to where they are whole, or refused in one line."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.analysis.external_logs import NAMES, read_external_log
from lengthen.analysis.summary import summarise
from lengthen.run.records import EvalRecord, Record, StepRecord, to_json
from lengthen.util.errors import DataError, LengthenError, SettingError

COLUMNS = {"step": "iteration", "loss": "train/loss", "eval_loss": "val/loss", "lr": "rate"}
CSV = """iteration,train/loss,val/loss,rate,note
1,4.0,,0.1,"a, b"
2,2.0,,0.1,
2,,3.0,,
3,3.0,2.5,0.05,
"""
ROWS: list[dict[str, object]] = [
    {"iteration": 1, "train/loss": 4.0, "rate": 0.1, "note": "a, b"},
    {"iteration": 2, "train/loss": 2.0, "rate": 0.1},
    {"iteration": 2, "val/loss": 3.0},
    {"iteration": 3, "train/loss": 3.0, "val/loss": 2.5, "rate": 0.05},
]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def log(path: Path, text: str) -> Path:
    file = path / "log"
    file.write_bytes(text.encode())
    return file


def read(path: Path, text: str, columns: dict[str, str] = COLUMNS) -> list[Record]:
    return list(read_external_log(log(path, text), columns).records)


EXPECTED: list[Record] = [
    StepRecord(step=1, loss=4.0, lr=0.1),
    StepRecord(step=2, loss=2.0, lr=0.1, loss_ratio=0.5),
    EvalRecord(step=2, loss=3.0, perplexity=math.exp(3.0)),
    StepRecord(step=3, loss=3.0, lr=0.05, loss_ratio=1.5),
    EvalRecord(step=3, loss=2.5, perplexity=math.exp(2.5)),
]


@pytest.mark.parametrize("text", [CSV, CSV.replace("\n", "\r\n"), "\ufeff" + CSV, JSONL])
def test_a_log_of_columns_or_of_objects_is_read_as_ours(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == EXPECTED


def test_every_name_that_we_know_can_be_mapped(tmp_path: Path) -> None:
    row = {f"their {name}": number for number, name in enumerate(NAMES, start=1)}
    file = log(tmp_path, json.dumps(row))
    metrics = read_external_log(file, {name: f"their {name}" for name in NAMES})
    (step,), (evaluation,), (probe,) = metrics.steps, metrics.evaluations, metrics.probes
    loss_named = {"eval_loss", "probe_loss"}
    assert {name: getattr(step, name) for name in NAMES if name not in loss_named} == {
        name: number for number, name in enumerate(NAMES, start=1) if name not in loss_named
    }
    assert evaluation.loss == row["their eval_loss"]
    assert probe.loss == row["their probe_loss"]
    assert evaluation.tokens == probe.tokens == row["their tokens"]


def test_an_evaluation_logged_apart_has_the_clock_of_the_step_before_it(tmp_path: Path) -> None:
    text = "s,l,v,t,sec\n1,4,,100,1.5\n2,3,,200,3.0\n2,,3.5,,\n3,3,,300,4.5\n"
    columns = {"step": "s", "loss": "l", "eval_loss": "v", "tokens": "t", "seconds": "sec"}
    evaluation = read_external_log(log(tmp_path, text), columns).evaluations[0]
    assert (evaluation.tokens, evaluation.seconds) == (200, 3.0)


def test_whole_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    text = f"s,l,t\n1.0,4,{2**60 + 1}\n"
    columns = {"step": "s", "loss": "l", "tokens": "t"}
    step = read_external_log(log(tmp_path, text), columns).steps[0]
    assert (step.step, step.tokens) == (1, 2**60 + 1)


WORDS = [("csv", word) for word in ("NaN", "Infinity", "-Infinity", "inf", "nan")]
WORDS += [("jsonl", f'"{word}"') for _, word in WORDS]  # as some trackers write them
WORDS += [("jsonl", word) for word in ("NaN", "Infinity", "-Infinity")]  # as Python's json does


@pytest.mark.parametrize(("kind", "cell"), WORDS)
def test_what_is_not_finite_is_null_and_marked(tmp_path: Path, kind: str, cell: str) -> None:
    texts = {"csv": f"s,l,g\n1,4,1\n2,{cell},1\n3,4,{cell}\n"}
    rows = ('{"s":1,"l":4,"g":1}', f'{{"s":2,"l":{cell},"g":1}}', f'{{"s":3,"l":4,"g":{cell}}}')
    path = log(tmp_path, texts.get(kind, "\n".join(rows)))
    metrics = read_external_log(path, {"step": "s", "loss": "l", "grad_norm": "g"})
    first, second, third = metrics.steps
    assert first.finite
    assert (second.loss, second.loss_ratio, second.finite) == (None, None, False)
    assert (third.loss, third.grad_norm, third.finite) == (4, None, False)
    assert summarise(metrics).ratios.not_finite == 2


def test_a_loss_too_large_for_a_perplexity_has_none(tmp_path: Path) -> None:
    text = "s,v\n1,1000\n2,NaN\n"
    columns = {"step": "s", "eval_loss": "v"}
    first, second = read_external_log(log(tmp_path, text), columns).evaluations
    assert (first.loss, first.perplexity) == (1000, None)
    assert (second.loss, second.perplexity) == (None, None)


def test_of_two_rows_for_one_step_the_later_counts_and_steps_are_put_in_order(
    tmp_path: Path,
) -> None:
    text = "s,l\n3,2\n1,4\n2,9\n2,3\n"
    found = read_external_log(log(tmp_path, text), {"step": "s", "loss": "l"}).steps
    assert [(r.step, r.loss, r.loss_ratio) for r in found] == [
        (1, 4, None),
        (2, 3, 0.75),
        (3, 2, pytest.approx(2 / 3)),
    ]


INDEXED = {
    "numbers before": ",s,l\n0,1,4.0\n1,2,3.0\n",
    "text before": ",s,l\n2026-11-01 00:00:00,1,4.0\n2026-11-01 00:00:01,2,3.0\n",
    "text behind": "s,l,\n1,4.0,restart\n2,3.0,\n",
    "two of them": ",s,,l\n7,1,9,4.0\n8,2,x,3.0\n",
    "objects": '{"": 7, "s": 1, "l": 4.0}\n{"": "restart", "s": 2, "l": 3.0}\n',
    "text in another column": f's,l,sample\n1,4.0,{"x" * 200_000}\n2,3.0,"a\nb"\n',
}


@pytest.mark.parametrize("text", INDEXED.values(), ids=INDEXED.keys())
def test_a_column_that_is_not_mapped_is_not_read_whatever_its_name(
    tmp_path: Path, text: str
) -> None:
    first, second = read(tmp_path, text, {"step": "s", "loss": "l"})
    assert first == StepRecord(step=1, loss=4.0)
    assert second == StepRecord(step=2, loss=3.0, loss_ratio=0.75)


@pytest.mark.parametrize("text", [INDEXED["numbers before"], INDEXED["objects"]])
def test_a_column_without_a_name_cannot_be_mapped(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingError, match=r"columns.tokens: must be the name of a column, got ''"):
        read(tmp_path, text, {"step": "s", "loss": "l", "tokens": ""})


@pytest.mark.parametrize("text", [CSV, JSONL])
def test_a_log_cut_at_any_byte_is_read_up_to_there(tmp_path: Path, text: str) -> None:
    full = read(tmp_path, text)
    data = text.encode()
    second_row = data.index(b"\n", data.index(b"\n") + 1) + 1
    for size in range(second_row, len(data) + 1):
        (tmp_path / "log").write_bytes(data[:size])
        # The columns of later rows are not there yet in the front of a JSONL.
        columns = {name: COLUMNS[name] for name in ("step", "loss")}
        metrics = read_external_log(tmp_path / "log", columns)
        lines = data[:size].count(b"\n") - (text is CSV)
        whole = lines + (text is JSONL and data[size : size + 1] == b"\n")
        losses = [row["train/loss"] for row in ROWS[:whole] if "train/loss" in row]
        assert [r.loss for r in metrics.steps] == losses
        assert metrics.unreadable == 0
    assert full == EXPECTED


def test_lines_that_are_no_row_are_counted(tmp_path: Path) -> None:
    text = JSONL + '[1]\n\nnot json\n{"train/loss": 3.0}\n' + "[" * 5000 + "\n"
    metrics = read_external_log(log(tmp_path, text), COLUMNS)
    assert (list(metrics.records), metrics.unreadable) == (EXPECTED, 4)
    metrics = read_external_log(log(tmp_path, CSV + "4,1.0\n\n5,1,1,1,1,1\n"), COLUMNS)
    assert (list(metrics.records), metrics.unreadable) == (EXPECTED, 2)


MISTAKES = {
    "columns: no such name on our side, got 'los'; did you mean 'loss'?": (
        CSV, {"step": "iteration", "los": "train/loss"}),
    "columns: must name the columns of step and of one of loss, eval_loss, probe_loss, "
    "got 'loss'": (CSV, {"loss": "train/loss"}),
    "columns: must name the columns of step and of one of loss, eval_loss, probe_loss, "
    "got 'step, lr'": (CSV, {"step": "iteration", "lr": "rate"}),
    "columns.loss: LOG has no such column, got 'train/los'; did you mean 'train/loss'?": (
        CSV, COLUMNS | {"loss": "train/los"}),
    "columns.lr: LOG has no such column, got 'rat'; did you mean 'rate'?": (
        JSONL, COLUMNS | {"lr": "rat"}),
    "LOG line 3: column 'train/loss' must be a number, got 'two'": (
        CSV.replace("2,2.0", "2,two"), COLUMNS),
    "LOG line 5: column 'rate' must be a number, got '0,05'": (
        CSV.replace(",0.05", ',"0,05"'), COLUMNS),
    "LOG line 2: column 'train/loss' must be a number, got True": (
        JSONL.replace("2.0", "true"), COLUMNS),
    "LOG line 2: column 'train/loss' must be a number, got [2.0]": (
        JSONL.replace("2.0", "[2.0]"), COLUMNS),
    "LOG line 3: column 'iteration' must be a whole number, got '2.5'": (
        CSV.replace("2,2.0", "2.5,2.0"), COLUMNS),
    "LOG line 3: column 'iteration' must be a whole number, got 'NaN'": (
        CSV.replace("2,2.0", "NaN,2.0"), COLUMNS),
    "LOG: has no rows; 0 lines cannot be read": ("iteration,train/loss\n", COLUMNS),
    "LOG: has no rows; 2 lines cannot be read": ('{"no\n{"no"\n', COLUMNS),
    "LOG: no row has a step and a value in 'train/loss' or 'val/loss'": (
        "iteration,train/loss,val/loss,rate\n1,,,0.1\n", COLUMNS),
    "LOG line 524294: is no CSV (field larger than field limit (1048576))": (
        CSV + '9,"' + "x\n" * 600_000, COLUMNS),
}  # fmt: skip


@pytest.mark.parametrize(("message", "case"), MISTAKES.items())
def test_a_mistake_is_one_line(
    tmp_path: Path, message: str, case: tuple[str, dict[str, str]]
) -> None:
    text, columns = case
    path = log(tmp_path, text)
    with pytest.raises(LengthenError) as caught:
        read_external_log(path, columns)
    assert str(caught.value).replace(str(path), "LOG") == message
    named = SettingError if message.startswith("columns") else DataError
    assert type(caught.value) is named


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read_external_log(log(tmp_path, ""), COLUMNS)


numbers = st.none() | st.floats() | st.integers() | st.sampled_from(["NaN", "", "1e999", "7"])


@given(
    rows=st.lists(st.tuples(st.integers(0, 20), numbers, numbers, numbers), min_size=1),
    objects=st.booleans(),
)
def test_no_numbers_however_odd_are_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[object, ...]], objects: bool
) -> None:
    names = ("s", "l", "v", "g")
    lines = [",".join(names), *(",".join("" if c is None else str(c) for c in r) for r in rows)]
    if objects:
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    path = log(tmp_path_factory.mktemp("odd"), "\n".join(lines) + "\n")
    columns = {"step": "s", "loss": "l", "eval_loss": "v", "grad_norm": "g"}
    try:
        metrics = read_external_log(path, columns)
    except LengthenError:
        return
    json.dumps([to_json(record) for record in metrics.records], allow_nan=False)
    if metrics.steps:
        summarise(metrics)
