"""Train the runs of a comparison, each in a process of its own; safe to interrupt.

A finished run is not trained again, an interrupted one resumes from its checkpoint, and one that
diverged or crashed is a result of the comparison. The state of a run is read from its own files, so
this process may be killed at any moment.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from lengthen.run.records import StepRecord
from lengthen.training.time_left import Rest, StepSeconds
from lengthen.util.console import ErrorStream, clock_time
from lengthen.util.errors import DataError
from lengthen.util.tables import Table, text_lines

LEARN_SECONDS = 30.0  # until the time left is said where there is no live table


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
    configs, rests = _on_their_stores(unfinished)
    machine = machine_for(configs, len(configs), jobs, threads)
    with owned_attempts(root) as attempts, _board(comparison, root, shown=shown) as board:
        clock = _Clock(rests, StepSeconds(machine.jobs))
        # Whoever had the directory until now may have finished some of them.
        left = {
            run.name: Job(run.name, run.name, run.directory(root), run.config)
            for run in _unfinished(unfinished, root)
        }
        board.say(clock.cost(left.values()))
        run_jobs(_Training(machine, attempts, board, left, clock), machine, root)


def _unfinished(runs: Sequence[Planned], root: Path) -> list[Planned]:
    return [
        run
        for run in runs
        if run_status(run.directory(root), run.config).state in ("missing", "begun")
    ]


def _on_their_stores(runs: Sequence[Planned]) -> tuple[list[Config], dict[str, Rest]]:
    """Return the configurations on their stores, and the steps of each run by its name.

    Refuse those that no verdict could be on.
    """
    stores = {run.config.data.path: open_store(run.config) for run in runs}
    for run in runs:
        store, length = stores[run.config.data.path], run.config.model.length
        if len(store.valid) <= length:
            has = f"the validation part has {len(store.valid)} tokens, needs at least {length + 1}"
            raise DataError(f"store {store.path}: {has}; prepare with a larger --valid")
    configs, rests, groups = [], dict[str, Rest](), dict[str, Rest]()
    for run in runs:
        store = stores[run.config.data.path]
        config = with_store(run.config, store)
        if run.group not in groups:  # seeds have the same steps
            schedule = config.schedule(store.sequences(config.model.length))
            groups[run.group] = Rest(config, schedule)
        configs.append(config)
        rests[run.name] = groups[run.group]
    return configs, rests


@dataclass
class _Clock:
    """What the runs cost, and how long they will take still, side by side as they go."""

    rests: Mapping[str, Rest]
    took: StepSeconds
    last: dict[str, StepRecord] = field(default_factory=dict)

    def cost(self, jobs: Collection[Job]) -> str:
        """Say what is left to do before any of it is done."""
        rests = [self.rests[job.name].after() for job in jobs]
        steps, flops = (sum(numbers) for numbers in zip(*rests, strict=True))
        side = f", {self.took.jobs} side by side" * (self.took.jobs > 1)
        return f"cost: {len(jobs)} runs{side}, {steps:,.0f} steps, {flops:.3g} FLOP of training"

    def look(self, running: Sequence[Job]) -> None:
        """Learn what the steps took since the last look."""
        for job in running:
            now, before = last_record(RunPaths(job.directory).metrics), self.last.get(job.name)
            if not isinstance(now, StepRecord):
                continue
            if before is not None and self.took.begin() and now.step > before.step:
                seconds, steps = (now.seconds or 0) - (before.seconds or 0), now.step - before.step
                flops = self.rests[job.name].flops(now.rows or 0, now.length or 0)
                self.took.take(flops, seconds / steps, steps)
            self.last[job.name] = now

    def left(self, jobs: Collection[Job]) -> str:
        """Say how long the jobs will take still; nothing before any step."""
        rests = [self._rest(job) for job in jobs]
        seconds = self.took.of(sum(steps for steps, _ in rests), sum(work for _, work in rests))
        return "" if seconds is None else f"{clock_time(seconds)} left"

    def _rest(self, job: Job) -> tuple[float, float]:
        now, rest = self.last.get(job.name), self.rests[job.name]
        if now is None:
            return rest.after()
        return rest.after(now.step, now.tokens or 0, (now.rows or 1, now.length or 1))


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
    learned: bool = False  # the time left

    def update(self, running: Sequence[Job], left: str) -> None:
        """Say the time left once, when there was time to learn it: lines are for what has ended."""
        if left and not self.learned and time.monotonic() - self.began > LEARN_SECONDS:
            self.learned = True
            self.say(left)

    def ended(self, job: Job, message: str, left: str) -> None:
        self.done += 1
        spent = clock_time(time.monotonic() - self.began)
        result = message or f"validation loss {_cell(job.directory, job.config)}"
        spent += f", {left}" if left else ""
        self.say(f"{self.done} of {self.total}  {spent}  {job.name}: {result}")

    def say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _LiveTable:
    """A cell for each run: its validation loss, how far it is, or how it ended."""

    comparison: Comparison
    cells: dict[str, str]  # by the run's name
    live: Live

    def update(self, running: Sequence[Job], left: str) -> None:
        self.cells.update({job.name: _progress(job) for job in running})
        seeds = self.comparison.seeds
        rows: dict[str, list[str]] = {}
        for run in self.comparison.runs:  # seed by seed
            rows.setdefault(run.group, []).append(self.cells[run.name])
        table = Table(
            "",
            ("variant", *(f"seed {seed}" for seed in seeds)),
            tuple((name, *cells) for name, cells in rows.items()),
            f"validation loss where a run is finished; {left or 'Ctrl-C saves and stops'}",
        )
        lines = text_lines([table], self.live.console.width)
        self.live.update(Text("\n".join(lines)), refresh=True)

    def ended(self, job: Job, message: str, _left: str) -> None:
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
    clock: _Clock

    def jobs_to_run(self, running: Sequence[Job]) -> Sequence[Job]:
        self.clock.look(running)
        self.board.update(running, self.clock.left(self.left.values()))
        return list(self.left.values())

    def starting(self, job: Job) -> None:
        jobs, threads = self.machine.jobs, self.machine.threads
        self.attempts.write({"run": job.name, "event": "started", "jobs": jobs, "threads": threads})

    def ended(self, process: Process, event: Event, message: str) -> None:
        if event == "ended":
            name = process.job.name
            del self.left[name]
            self.attempts.write({"run": name, "event": "ended", "message": message})
            self.board.ended(process.job, message, self.clock.left(self.left.values()))

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
