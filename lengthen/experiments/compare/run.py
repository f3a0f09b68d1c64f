"""Train the runs of a comparison, each in a process of its own; safe to interrupt.

A finished run is not trained again, an interrupted one resumes from its checkpoint, and one that
diverged or crashed is a result of the comparison. The state of a run is read from its own files, so
this process may be killed at any moment.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.experiments.compare.file import Comparison, Planned
from lengthen.experiments.runner import (
    Event,
    Job,
    Machine,
    Process,
    machine_for,
    owned_attempts,
    run_jobs,
)
from lengthen.experiments.status import run_status
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import JsonLines, last_record
from lengthen.util.console import ErrorStream, clock_time
from lengthen.util.errors import DataError
from lengthen.util.tables import Table, text_lines


def carry_out(
    comparison: Comparison,
    root: Path,
    *,
    jobs: int | None = None,
    threads: int | None = None,
    shown: bool = True,
) -> None:
    """Bring every run of a comparison to its end.

    Raises BusyError where another process does so, SettingError and DataError for what no run
    could start with, and StoppedError after a signal, when the runs have saved.
    """
    unfinished = _unfinished(comparison.runs, root)
    if not unfinished:
        return
    configs = _on_their_stores(unfinished)
    machine = machine_for(configs, len(configs), jobs, threads)
    with owned_attempts(root) as attempts, _board(comparison, root, shown=shown) as board:
        # Whoever had the directory until now may have finished some of them.
        left = {
            run.name: Job(run.name, run.name, run.directory(root), run.config)
            for run in _unfinished(unfinished, root)
        }
        run_jobs(_Training(machine, attempts, board, left), machine, root)


def _unfinished(runs: Sequence[Planned], root: Path) -> list[Planned]:
    return [
        run
        for run in runs
        if run_status(run.directory(root), run.config).state in ("missing", "begun")
    ]


def _on_their_stores(runs: Sequence[Planned]) -> list[Config]:
    """Return the configurations on their stores; refuse those that no verdict could be on."""
    stores = {run.config.data.path: open_store(run.config) for run in runs}
    for run in runs:
        store, length = stores[run.config.data.path], run.config.model.length
        if len(store.valid) <= length:
            has = f"the validation part has {len(store.valid)} tokens, needs at least {length + 1}"
            raise DataError(f"store {store.path}: {has}; prepare with a larger --valid")
    return [with_store(run.config, stores[run.config.data.path]) for run in runs]


@contextmanager
def _board(comparison: Comparison, root: Path, *, shown: bool) -> Iterator["_Lines | _LiveTable"]:
    """Open the display on the error stream, so that output stays clean."""
    console = ErrorStream()
    console.quiet = not shown
    cells = {run.name: _cell(run.directory(root), run.config) for run in comparison.runs}
    if not console.is_terminal or not shown:
        done = sum(cell not in (".", "begun") for cell in cells.values())
        yield _Lines(len(cells), done, console)
        return
    # Refreshed by `update` alone: a thread of its own would be forked into every run.
    with Live(console=console, auto_refresh=False) as live:
        yield _LiveTable(comparison, cells, live)


@dataclass
class _Lines:
    """One line for each run that ends."""

    total: int
    done: int
    console: Console
    began: float = field(default_factory=time.monotonic)

    def update(self, running: Sequence[Job]) -> None:
        """Do nothing: lines are for what has ended."""

    def ended(self, job: Job, message: str) -> None:
        self.done += 1
        spent = clock_time(time.monotonic() - self.began)
        result = message or f"validation loss {_cell(job.directory, job.config)}"
        self.say(f"{self.done} of {self.total}  {spent}  {job.name}: {result}")

    def say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _LiveTable:
    """A cell for each run: its validation loss, how far it is, or how it ended."""

    comparison: Comparison
    cells: dict[str, str]  # by the run's name
    live: Live

    def update(self, running: Sequence[Job]) -> None:
        self.cells.update({job.name: _progress(job) for job in running})
        seeds = self.comparison.seeds
        rows: dict[str, list[str]] = {}
        for run in self.comparison.runs:  # seed by seed
            rows.setdefault(run.group, []).append(self.cells[run.name])
        table = Table(
            "",
            ("variant", *(f"seed {seed}" for seed in seeds)),
            tuple((name, *cells) for name, cells in rows.items()),
            "validation loss where a run is finished; Ctrl-C saves and stops",
        )
        lines = text_lines([table], self.live.console.width)
        self.live.update(Text("\n".join(lines)), refresh=True)

    def ended(self, job: Job, message: str) -> None:
        self.cells[job.name] = _cell(job.directory, job.config)
        if message:
            self.say(f"{job.name}: {message}")

    def say(self, text: str) -> None:
        self.live.console.print(escape(text), highlight=False)


@dataclass(frozen=True)
class _Training:
    """The runs of a comparison that are not at their end (runner.Experiment)."""

    machine: Machine
    attempts: JsonLines
    board: _Lines | _LiveTable
    left: dict[str, Job]

    def jobs_to_run(self, running: Sequence[Job]) -> Sequence[Job]:
        self.board.update(running)
        return list(self.left.values())

    def starting(self, job: Job) -> None:
        jobs, threads = self.machine.jobs, self.machine.threads
        self.attempts.write({"run": job.name, "event": "started", "jobs": jobs, "threads": threads})

    def ended(self, process: Process, event: Event, message: str) -> None:
        if event == "ended":
            name = process.job.name
            del self.left[name]
            self.attempts.write({"run": name, "event": "ended", "message": message})
            self.board.ended(process.job, message)

    def say(self, text: str) -> None:
        self.board.say(text)


def _cell(directory: Path, config: Config) -> str:
    status = run_status(directory, config)
    if status.state != "finished":
        return "." if status.state == "missing" else status.state
    loss = status.metrics.evaluations[-1].loss if status.metrics.evaluations else None
    return "not finite" if loss is None else f"{loss:.3f}"


def _progress(job: Job) -> str:
    last = last_record(RunPaths(job.directory).metrics)
    budget = job.config.budget.tokens
    if budget is None:
        return f"step {last.step if last else 0:,}"
    return f"{100 * (last.tokens or 0 if last else 0) // budget} %"
