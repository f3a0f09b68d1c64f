"""Logs of other trainers, CSV or JSONL with a map of columns, read as if they were ours."""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from lengthen.analysis.tensorboard_log import rows_below
from lengthen.core.loss_ratio import LowestLoss, finite_or_none, perplexity
from lengthen.run.metrics import LINE_LIMIT, Metrics
from lengthen.run.records import EvalRecord, ProbeRecord, StepRecord
from lengthen.util.errors import DataError, SettingError, nearest, shown

External: TypeAlias = StepRecord | EvalRecord | ProbeRecord
Row: TypeAlias = dict[str, object]

LOSSES = ("loss", "eval_loss", "probe_loss")
MEASURED = ("grad_norm", "variance_norm", "variance_max", "lr")
DIGITS = re.compile(r"[+-]?[0-9]+")


def _number(cell: object) -> object:
    """Return a cell as pydantic reads it, which knows the texts "NaN" and "Infinity" too."""
    if isinstance(cell, bool):
        raise ValueError(cell)
    return cell.strip() or None if isinstance(cell, str) else cell


def _whole(cell: object) -> object:
    number = _number(cell)
    if isinstance(number, str) and not DIGITS.fullmatch(number):
        return float(number)  # 1e3; digits stay text, since a float holds whole numbers to 2^53
    return number


Number: TypeAlias = Annotated[float | None, BeforeValidator(_number)]
Int64: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Whole: TypeAlias = Annotated[Int64 | None, BeforeValidator(_whole), Field(title="whole number")]


class _Cells(BaseModel):
    """One row of a log, by our names; None for an empty cell and for what is not logged."""

    step: Whole = None
    tokens: Whole = None
    seconds: Number = None
    loss: Number = None
    eval_loss: Number = None
    probe_loss: Number = None
    length: Whole = None
    rows: Whole = None
    grad_norm: Number = None
    variance_norm: Number = None
    variance_max: Number = None
    lr: Number = None


NAMES = tuple(_Cells.model_fields)


def read_external_log(path: Path, columns: Mapping[str, str]) -> Metrics:
    """Read another trainer's log; `columns` maps our names (`NAMES`) to its columns.

    A folder is one of TensorBoard, whose tags are the columns, beside `step`.

    A value under `loss`, `eval_loss` or `probe_loss` makes a record of a step, an evaluation or a
    probe; rows without any say nothing that we know. Loss ratios are worked out here, and what the
    log lacks is absent from the records. The last line of a CSV counts once it has its line end,
    since a number can be cut in two; lines that are no row are counted as unreadable. Raises
    SettingError for a name or a column that is not there, DataError for a value that is no number
    and for a log without rows or losses.
    """
    _check_names(columns)
    records: dict[tuple[type[External], int], External] = {}
    there: set[str] = set()
    unreadable = 0
    for line, row in _rows(path):
        made = None if row is None else _records(_cells(f"{path} line {line}", row, columns))
        unreadable += made is None
        there.update(row or ())
        records.update({(type(record), record.step): record for record in made or ()})
    if not there:
        raise DataError(f"{path}: has no rows; {unreadable} lines cannot be read")
    for name, column in columns.items():
        if column not in there:
            rule = f"{path} has no such column"
            raise SettingError(f"columns.{name}", rule, column, nearest(column, sorted(there)))
    if not records:
        losses = [shown(columns[name]) for name in LOSSES if name in columns]
        raise DataError(f"{path}: no row has a step and a value in {' or '.join(losses)}")
    return Metrics(tuple(_completed(records.values())), unreadable)


def _check_names(columns: Mapping[str, str]) -> None:
    for name, column in columns.items():
        if name not in NAMES:
            raise SettingError("columns", "no such name on our side", name, nearest(name, NAMES))
        if not column:
            raise SettingError(f"columns.{name}", "must be the name of a column", column)
    if "step" not in columns or columns.keys().isdisjoint(LOSSES):
        rule = f"must name the columns of step and of one of {', '.join(LOSSES)}"
        raise SettingError("columns", rule, ", ".join(columns))


def _cells(place: str, row: Row, columns: Mapping[str, str]) -> _Cells:
    mapped = {name: row[column] for name, column in columns.items() if column in row}
    try:
        return _Cells.model_validate(mapped)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        kind = _Cells.model_fields[name].title or "number"
        rule = f"column {shown(columns[name])} must be a {kind}, got {shown(mapped[name])}"
        raise DataError(f"{place}: {rule}") from None


def _records(cells: _Cells) -> list[External] | None:
    """Return what a row says, one record for each loss in it; None for a loss at no known step."""
    if cells.step is None:
        return None if any(getattr(cells, name) is not None for name in LOSSES) else []
    records: list[External] = []
    place: dict[str, Any] = cells.model_dump(include={"step", "tokens", "seconds"})
    if (loss := cells.loss) is not None:
        measured: dict[str, Any] = {name: _finite(getattr(cells, name)) for name in MEASURED}
        place_and_shape = {**place, "length": cells.length, "rows": cells.rows}
        finite = math.isfinite(loss) and math.isfinite(cells.grad_norm or 0.0)
        records.append(StepRecord(**place_and_shape, loss=_finite(loss), **measured, finite=finite))
    if (loss := cells.eval_loss) is not None:
        known = _finite(perplexity(loss))
        records.append(EvalRecord(**place, loss=_finite(loss), perplexity=known))
    if (loss := cells.probe_loss) is not None:
        records.append(ProbeRecord(**place, loss=_finite(loss)))
    return records


def _finite(value: float | None) -> float | None:
    return None if value is None else finite_or_none(value)


def _completed(records: Iterable[External]) -> Iterator[External]:
    """Yield the records in the order of their steps, with loss ratios and clocks.

    An evaluation that was logged apart has no tokens or seconds: those of the last step are its.
    """
    lowest = {StepRecord: LowestLoss(), ProbeRecord: LowestLoss()}
    tokens, seconds = None, None
    for record in sorted(records, key=lambda one: (one.step, not isinstance(one, StepRecord))):
        if isinstance(record, StepRecord):
            tokens, seconds = record.tokens, record.seconds
        at = tokens if record.tokens is None else record.tokens
        since = seconds if record.seconds is None else record.seconds
        full = replace(record, tokens=at, seconds=since)
        if not isinstance(full, EvalRecord):
            loss = math.nan if full.loss is None else full.loss
            full = replace(full, loss_ratio=_finite(lowest[type(full)].ratio(loss)))
            lowest[type(full)] = lowest[type(full)].after(loss)
        yield full


def _rows(path: Path) -> Iterator[tuple[int, Row | None]]:
    """Yield (line number, row); None for what is no row. A cut last line is left out."""
    if path.is_dir():
        yield from rows_below(path)
        return
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline(LINE_LIMIT)
        lines = chain([first], iter(lambda: file.readline(LINE_LIMIT), ""))
        yield from _objects(lines) if first.lstrip().startswith("{") else _table(path, lines)


def _cut(line: str) -> bool:
    return not line.endswith(("\n", "\r")) and len(line) < LINE_LIMIT


def _objects(lines: Iterable[str]) -> Iterator[tuple[int, Row | None]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            # The front of an object is never an object: what parses is whole without a line end.
            row = None
        if isinstance(row, dict):
            yield number, row
        elif line.strip() and not _cut(line):
            yield number, None


def _table(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Row | None]]:
    csv.field_size_limit(LINE_LIMIT)  # for texts in columns that are not mapped
    reader = csv.reader(line for line in lines if not _cut(line))
    try:
        header = next(reader, [])
        for cells in reader:
            if cells:
                fits = len(cells) == len(header)
                yield reader.line_num, dict(zip(header, cells, strict=True)) if fits else None
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: is no CSV ({error})") from None
