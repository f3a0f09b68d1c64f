"""What evaluations found, as JSON: one file for a run, written whole whenever a task has ended."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from lengthen.corpus.store import read_limited
from lengthen.disk import Disk
from lengthen.errors import NAME, DataError, cut
from lengthen.evaluate.outcome import Outcome

SIZE_LIMIT = 2**26  # bytes


@dataclass(frozen=True)
class Result:
    """What one task found about one model."""

    model: str | None  # its name, in a file of several; None beside the model, which may move
    step: int | None  # of the checkpoint; None: the model is no run
    precision: str
    options: dict[str, int]  # those that decide what was asked: shots, limit, stride, seed
    outcome: Outcome

    def replaces(self, other: "Result") -> bool:
        """Say whether `other` is the same question to the same checkpoint."""
        return self._question() == other._question()

    def _question(self) -> tuple[object, ...]:
        options = sorted(self.options.items())
        return self.model, self.step, self.precision, options, self.outcome.task


@dataclass(frozen=True)
class File:
    """The content of a file."""

    format: Literal[1]
    results: tuple[Result, ...]


FILE = TypeAdapter(File)


def read(path: Path) -> tuple[Result, ...]:
    """Return the results in a file, none where it is not there; raises DataError."""
    if not path.exists():
        return ()
    data = read_limited(path, SIZE_LIMIT)
    try:
        content = json.loads(data, object_hook=_with_nan)
        results = FILE.validate_python(content).results
        if all(map(_is_drawable, results)):
            return results
        cause = "a curve whose places and values are no pairs of finite places"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = cut(".".join(map(str, first["loc"])), NAME)
        cause = ": ".join(filter(None, [where, first["msg"]]))
    except (ValueError, RecursionError):
        cause = "not JSON"
    raise DataError(f"file {path}: holds no evaluations of this version ({cause}); move it away")


def write(disk: Disk, path: Path, results: Sequence[Result]) -> None:
    """Write results, whole or not at all; raises StorageError."""
    # What is not finite becomes null: JSON has no other word for it.
    disk.replace_file(path, FILE.dump_json(File(1, tuple(results)), indent=1) + b"\n")


def kept(disk: Disk, path: Path, result: Result) -> None:
    """Put a result into a file, in the place of an earlier one to the same question."""
    # Read again each time: another evaluation may write beside this one.
    others = [other for other in read(path) if not result.replaces(other)]
    write(disk, path, [*others, result])


def _is_drawable(result: Result) -> bool:
    return all(
        len(curve.at) == len(curve.values) and all(map(math.isfinite, curve.at))
        for curve in result.outcome.curves
    )


def _with_nan(fields: dict[str, Any]) -> dict[str, Any]:
    """Give figures their "not a number" back."""
    if "value" in fields and fields["value"] is None:
        fields["value"] = math.nan
    if isinstance(values := fields.get("values"), list):
        fields["values"] = [math.nan if value is None else value for value in values]
    return fields
