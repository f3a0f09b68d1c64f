"""What one task says about one model; every task returns this, every reader takes it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One figure of a task."""

    name: str  # "accuracy", "word perplexity", ...
    value: float
    error: float | None = None  # its standard error over items
    chance: float | None = None  # what guessing gives


@dataclass(frozen=True)
class Curve:
    """A figure for each place on an axis, such as the loss at each position of a sequence."""

    name: str
    axis: str  # what `at` counts
    at: tuple[float, ...]
    values: tuple[float, ...]


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
