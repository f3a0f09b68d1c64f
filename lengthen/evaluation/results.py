"""The results of evaluations, as JSON: one file for a run, rewritten after every task."""

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, FiniteFloat, TypeAdapter, ValidationError

from lengthen.core.loss_ratio import perplexity
from lengthen.data.tokenizer_files import first_problem
from lengthen.util.disk import Disk, read_limited
from lengthen.util.errors import DataError

SIZE_LIMIT = 2**26  # bytes
MANIFEST_LIMIT = 2**24  # bytes
# Settings of an outcome that say where something lay, and those that say what it was.
PLACES = {"set": "set SHA-256", "store": "store id"}
# What is not finite is null in a file: JSON has no other word for it.
Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


@dataclass(frozen=True)
class Measure:
    """One figure of a task."""

    name: str  # "accuracy", "word perplexity", ...
    value: Figure
    error: float | None = None  # its standard error over items
    chance: float | None = None  # what guessing gives


@dataclass(frozen=True)
class Curve:
    """A figure for each place on an axis, such as the loss at each position of a sequence."""

    name: str
    axis: str  # what `at` counts
    at: tuple[FiniteFloat, ...]
    values: tuple[Figure, ...]

    def __post_init__(self) -> None:
        assert len(self.at) == len(self.values), "a curve has a value for each place"


@dataclass(frozen=True)
class Outcome:
    """The figures of one task, and what is needed to compare them with another's."""

    task: str
    items: int
    tokens: int  # whose loss was counted
    seconds: float
    measures: tuple[Measure, ...]
    curves: tuple[Curve, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()  # stride, shots, the set's file and SHA-256, ...
    notes: tuple[str, ...] = ()  # conventions that a reader must know


@dataclass(frozen=True)
class Result:
    """The outcome of one task for one model."""

    model: str | None  # its name, in a file of several; None beside the model, which may move
    step: int | None  # of the checkpoint; None: the model is no run
    precision: str
    options: dict[str, int]  # those that decide what was asked: shots, limit, stride, seed
    outcome: Outcome
    weights: str | None = None  # their SHA-256 (weights_at); None: not recorded

    @property
    def question(self) -> dict[str, str]:
        """What was asked, by name: figures compare only where all of it is the same.

        That is the task, its options, the hashes of its sets or the id of its store, limits and
        precision; where a set or a store lay is no part of it.
        """
        options = {name: str(value) for name, value in self.options.items()}
        known = {name: value for name, value in self.outcome.settings if name not in PLACES}
        counted = {"precision": self.precision, "items": str(self.outcome.items)}
        return {"task": self.outcome.task, **options, **known, **counted}

    def replaces(self, other: "Result") -> bool:
        """Say whether `other` is the same question to the same weights of the same checkpoint."""
        same = (self.model, self.step, self.question) == (other.model, other.step, other.question)
        return same and other.weights in (None, self.weights)

    def supersedes(self, other: "Result") -> bool:
        """Say whether `other` is of weights that this checkpoint had before, beside its model."""
        same = self.model is None and other.model is None and self.step == other.step
        return same and None not in (self.weights, other.weights) and self.weights != other.weights


@dataclass(frozen=True)
class File:
    """The content of a file."""

    format: Literal[1]
    results: tuple[Result, ...]


FILE = TypeAdapter(File)


def read(path: Path) -> tuple[Result, ...]:
    """Return the results in a file, none where there is no file; raises DataError."""
    if not path.exists():
        return ()
    try:
        return FILE.validate_json(read_limited(path, SIZE_LIMIT)).results
    except ValidationError as error:
        rule = f"holds no evaluations of this version ({first_problem(error)})"
        raise DataError(f"file {path}: {rule}; move it away") from None


def write(disk: Disk, path: Path, results: Sequence[Result]) -> None:
    """Write results, whole or not at all; raises StorageError."""
    disk.replace_file(path, FILE.dump_json(File(1, tuple(results)), indent=1) + b"\n")


def add(disk: Disk, path: Path, result: Result) -> None:
    """Put a result into a file, in the place of an earlier one to the same question.

    Results of other weights under the checkpoint's name are set aside first.
    """
    set_aside(disk, path, result.supersedes)
    # Read again each time: another evaluation may write beside this one.
    others = [other for other in read(path) if not result.replaces(other)]
    write(disk, path, [*others, result])


def set_aside(disk: Disk, path: Path, is_superseded: Callable[[Result], bool]) -> None:
    """Move results from a file to the one beside it that is called `*.discarded.json`."""
    results = read(path)
    if old := [result for result in results if is_superseded(result)]:
        beside = path.with_suffix(".discarded.json")
        write(disk, beside, [*read(beside), *old])
        write(disk, path, [result for result in results if not is_superseded(result)])


def weights_at(checkpoint: Path) -> str | None:
    """Return the SHA-256 of the weights of a checkpoint, by its manifest; None without a good one.

    It is that of model.safetensors; of a sharded one, of the SHA-256 of its parts in their order.
    """
    try:
        files = json.loads(read_limited(checkpoint / "manifest.json", MANIFEST_LIMIT))["files"]
        parts = [str(files[name]["sha256"]) for name in sorted(files) if name.startswith("model")]
    except (DataError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if len(parts) < 2:
        return next(iter(parts), None)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def perplexity_measure(name: str, loss: float, error: float | None, chance: float) -> Measure:
    """Return exp(loss), with its error to first order."""
    value = perplexity(loss)
    return Measure(name, value, None if error is None else value * error, chance)


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean over items; None for a single one."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values))
