"""A comparison while it runs: a live table in a terminal, a line for each run elsewhere."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from lengthen.experiments.compare.file import Comparison, Planned
from lengthen.experiments.status import directory, standing
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import last_record
from lengthen.util.console import ErrorStream, clock_time
from lengthen.util.tables import Table, printed


class Board(Protocol):
    """What the work on a comparison tells about itself."""

    def update(self, running: Sequence[Planned]) -> None:
        """Say which runs are being trained."""

    def ended(self, run: Planned, message: str) -> None:
        """Say that a run has ended, with its error or an empty message."""

    def say(self, text: str) -> None:
        """Print a line that stays."""


@dataclass
class _Lines:
    """One line for each run that ends."""

    root: Path
    total: int
    done: int
    console: Console
    began: float = field(default_factory=time.monotonic)

    def update(self, running: Sequence[Planned]) -> None:
        """Say nothing: lines are for what has ended."""

    def ended(self, run: Planned, message: str) -> None:
        self.done += 1
        said = message or f"validation loss {_loss(self.root, run)}"
        spent = clock_time(time.monotonic() - self.began)
        self.say(f"{self.done} of {self.total}  {spent}  {run.name}: {said}")

    def say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)


@dataclass
class _Live:
    """A cell for each run: its validation loss, how far it is, or what became of it."""

    comparison: Comparison
    root: Path
    cells: dict[str, str]  # by the run's name
    live: Live

    def update(self, running: Sequence[Planned]) -> None:
        for run in running:
            self.cells[run.name] = _how_far(self.root, run)
        self.live.update(printed(self._table()), refresh=True)

    def ended(self, run: Planned, message: str) -> None:
        state = standing(self.root, run).state
        self.cells[run.name] = _loss(self.root, run) if state == "finished" else state
        if message:
            self.say(f"{run.name}: {message}")

    def say(self, text: str) -> None:
        self.live.console.print(escape(text), highlight=False)

    def _table(self) -> Table:
        seeds = self.comparison.seeds
        rows: dict[str, dict[int, str]] = {}
        for run in self.comparison.runs:
            name = f"{run.variant}, {run.cell}" if run.cell else run.variant
            rows.setdefault(name, {})[run.seed] = self.cells[run.name]
        return Table(
            "",
            ("variant", *(f"seed {seed}" for seed in seeds)),
            tuple((name, *(cells[seed] for seed in seeds)) for name, cells in rows.items()),
            "validation loss where a run is finished; Ctrl-C saves and stops",
        )


@contextmanager
def board(comparison: Comparison, root: Path, *, shown: bool) -> Iterator[Board]:
    """Open the display on the error stream, so that output stays clean."""
    console = ErrorStream()
    console.quiet = not shown
    states = {run.name: standing(root, run).state for run in comparison.runs}
    if not console.is_terminal or not shown:
        done = sum(state in ("finished", "diverged") for state in states.values())
        yield _Lines(root, len(states), done, console)
        return
    first = {"missing": ".", "begun": "begun", "diverged": "diverged"}
    cells = {run.name: first.get(states[run.name]) or _loss(root, run) for run in comparison.runs}
    # Refreshed by `update` alone: a thread of its own would be forked into every run.
    with Live(console=console, auto_refresh=False) as live:
        yield _Live(comparison, root, cells, live)


def _loss(root: Path, run: Planned) -> str:
    evaluations = standing(root, run).metrics.evaluations
    loss = evaluations[-1].loss if evaluations else None
    return "not finite" if loss is None else f"{loss:.3f}"


def _how_far(root: Path, run: Planned) -> str:
    last = last_record(RunPaths(directory(root, run)).metrics)
    budget = run.config.budget.tokens
    if budget is None:
        return f"step {last.step if last else 0:,}"
    return f"{100 * (last.tokens or 0 if last else 0) // budget} %"
