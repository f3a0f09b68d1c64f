"""Logs of other trainers, CSV or JSONL with a map of columns, read as if they were ours."""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from lengthen.core.loss_ratio import LowestLoss, finite_or_none
from lengthen.run.metrics import LINE_LIMIT, Metrics
from lengthen.run.records import EvalRecord, ProbeRecord, StepRecord
from lengthen.util.errors import DataError, SettingError, nearest, shown

External: TypeAlias = StepRecord | EvalRecord | ProbeRecord

KINDS: dict[str, type[External]] = {
    "loss": StepRecord,
    "eval_loss": EvalRecord,
    "probe_loss": ProbeRecord,
}
SHAPE = ("length", "rows")
MEASURED = ("grad_norm", "variance_norm", "variance_max", "lr")
NAMES = ("step", "tokens", "seconds", *KINDS, *SHAPE, *MEASURED)
DIGITS = re.compile(r"[+-]?[0-9]+")

Row = dict[str, object]


def read_external_log(path: Path, columns: Mapping[str, str]) -> Metrics:
    """Read another trainer's log; `columns` maps our names (`NAMES`) to its columns.

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
        made = None if row is None else _records(_Cells(path, line, row, columns))
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
        losses = [shown(columns[name]) for name in KINDS if name in columns]
        raise DataError(f"{path}: no row has a step and a value in {' or '.join(losses)}")
    return Metrics(tuple(_completed(records.values())), unreadable)


def _check_names(columns: Mapping[str, str]) -> None:
    for name, column in columns.items():
        if name not in NAMES:
            raise SettingError("columns", "no such name on our side", name, nearest(name, NAMES))
        if not column:
            raise SettingError(f"columns.{name}", "must be the name of a column", column)
    if "step" not in columns or KINDS.keys().isdisjoint(columns):
        rule = f"must name the columns of step and of one of {', '.join(KINDS)}"
        raise SettingError("columns", rule, ", ".join(columns))


@dataclass(frozen=True)
class _Cells:
    """One row of a log, by our names."""

    path: Path
    line: int
    row: Row
    columns: Mapping[str, str]

    def number(self, name: str) -> float | None:
        """Return the number, which may be infinite or not a number; None for an empty cell."""
        try:
            number = _number(self._cell(name))
            return None if number is None else float(number)
        except (ValueError, OverflowError):
            raise self._wrong(name, "must be a number") from None

    def whole(self, name: str) -> int | None:
        """Return the whole number with all its digits; None for an empty cell."""
        number = self.number(name)
        if number is not None and not number.is_integer():
            raise self._wrong(name, "must be a whole number")
        exact = _number(self._cell(name))
        return None if exact is None else int(exact)

    def _cell(self, name: str) -> object:
        # Not by an empty name where none is mapped: that is the column of an index in a data frame.
        return self.row.get(self.columns[name]) if name in self.columns else None

    def _wrong(self, name: str, rule: str) -> DataError:
        column = self.columns[name]
        got = f"column {shown(column)} {rule}, got {shown(self.row[column])}"
        return DataError(f"{self.path} line {self.line}: {got}")


def _number(value: object) -> int | float | None:
    """Return a cell's number; raises ValueError where it is none.

    Some trackers write what is not finite as text, "NaN" or "Infinity": float() reads both.
    """
    if isinstance(value, str):
        text = value.strip()
        # A float holds whole numbers up to 2^53 only, and tokens may be more.
        return int(text) if DIGITS.fullmatch(text) else float(text) if text else None
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(value)
    return value


def _records(cells: _Cells) -> list[External] | None:
    """Return what a row says, one record for each loss in it; None for a loss at no known step."""
    losses = {column: cells.number(column) for column in KINDS}
    measured = {KINDS[column]: loss for column, loss in losses.items() if loss is not None}
    step = cells.whole("step")
    if step is None:
        return None if measured else []
    place: dict[str, Any] = {
        "step": step,
        "tokens": cells.whole("tokens"),
        "seconds": cells.number("seconds"),
    }
    return [_record(kind, loss, place, cells) for kind, loss in measured.items()]


def _record(kind: type[External], loss: float, place: dict[str, Any], cells: _Cells) -> External:
    known = {**place, "loss": finite_or_none(loss)}
    if kind is EvalRecord:
        return EvalRecord(**known, perplexity=_perplexity(loss))
    if kind is ProbeRecord:
        return ProbeRecord(**known)
    measured = {name: cells.number(name) for name in MEASURED}
    finite = math.isfinite(loss) and math.isfinite(measured["grad_norm"] or 0.0)
    known |= {name: cells.whole(name) for name in SHAPE}
    known |= {n: None if v is None else finite_or_none(v) for n, v in measured.items()}
    return StepRecord(**known, finite=finite)


def _perplexity(loss: float) -> float | None:
    try:
        return finite_or_none(math.exp(loss))
    except OverflowError:
        return None


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
            ratio = lowest[type(full)].ratio(loss)
            full = replace(full, loss_ratio=None if ratio is None else finite_or_none(ratio))
            lowest[type(full)] = lowest[type(full)].after(loss)
        yield full


def _rows(path: Path) -> Iterator[tuple[int, Row | None]]:
    """Yield (line number, row); None for what is no row. A cut last line is left out."""
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
    csv.field_size_limit(LINE_LIMIT)  # of a text that somebody logs beside: we need none of it
    reader = csv.reader(line for line in lines if not _cut(line))
    try:
        header = next(reader, [])
        for cells in reader:
            if cells:
                fits = len(cells) == len(header)
                yield reader.line_num, dict(zip(header, cells, strict=True)) if fits else None
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: is no CSV ({error})") from None
