"""Train the runs of a comparison, each in a process of its own; safe to interrupt.

A finished run is not trained again, an interrupted one resumes from its checkpoint, and one that
diverged or crashed is a result of the comparison. The state of a run is read from its own files, so
this process may be killed at any moment.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

from lengthen.analysis.tensorboard_log import reader
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store
from lengthen.experiments.command import Command
from lengthen.experiments.compare.declared import decided_in, declare
from lengthen.experiments.compare.file import Comparison, Planned
from lengthen.experiments.compare.verdicts import FEWEST_SEEDS
from lengthen.experiments.runner import (
    Event,
    Job,
    Machine,
    Process,
    laid_out,
    machine_for,
    owned_attempts,
    run_jobs,
)
from lengthen.experiments.status import run_status
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import JsonLines, last_record, read_metrics
from lengthen.run.records import StepRecord
from lengthen.training.time_left import Rest, TimeLeft
from lengthen.util.console import Line, clock_time, line, say
from lengthen.util.disk import Disk, as_line
from lengthen.util.errors import DataError, SettingError
from lengthen.util.tables import counted, number

COMMANDS = "commands.txt"  # beside the runs: one a line


def carry_out(
    comparison: Comparison,
    root: Path,
    *,
    jobs: int | None = None,
    threads: int | None = None,
    amend: bool = False,
    shown: bool = True,
    on_end: Callable[[Path], None] = lambda _: None,
) -> None:
    """Bring every run of a comparison, whose configurations are on their stores, to its end.

    They start in their order. `on_end` gets the directory of each that has ended or crashed.
    Raises BusyError where another process does so, SettingError and DataError for what no run
    could start with or for a changed file (declare), and StoppedError after a signal, when the runs
    have saved.
    """
    comparison = decided_in(comparison, root)
    unfinished = _unfinished(comparison.runs, root)
    rests = _rests(unfinished)
    configs = [run.asked for run in unfinished]
    machine = machine_for(configs, len(configs), jobs, threads) if configs else None
    _check_programs(unfinished)
    declare(comparison, root, amend=amend)
    if machine is None:
        return
    with owned_attempts(root) as attempts:
        # Whoever had the directory until now may have finished some of them.
        left = {
            run.name: Job(run.name, run.name, run.directory(root), run.asked)
            for run in _unfinished(unfinished, root)
        }
        rests = {name: rest for name, rest in rests.items() if name in left}
        time_left = TimeLeft(rests, machine.jobs)
        steps, flops = time_left.work()
        whole = int(flops) or len(left)  # of commands nothing is known but their number
        with line(whole, comparison.name, shown=shown, own_thread=False) as progress:
            side = f", {machine.jobs} side by side" if machine.jobs > 1 else ""
            work = f", {steps:,.0f} steps, {flops:.3g} FLOP of training" if flops > 0 else ""
            few = f"; for a verdict {FEWEST_SEEDS} seeds are needed"
            few *= len(comparison.seeds) < FEWEST_SEEDS
            cost = f"cost: {counted(len(left), 'run')}{side}{work}{few}"
            for text in (*comparison.reasons, cost):
                progress.say(text)
            of = len(comparison.runs)
            training = _Training(machine, attempts, progress, left, time_left, of, whole, on_end)
            run_jobs(training, machine, root)


def write_commands(comparison: Comparison, root: Path, *, amend: bool, shown: bool) -> Path:
    """Write the configuration of every unfinished run, and a file with a command for each.

    Whoever can carry out commands trains them, in any order and on any machine that sees `root`;
    one given again goes on. Raises what carry_out raises before it trains.
    """
    root = as_line("--lay-out", root.resolve())
    comparison = decided_in(comparison, root)
    unfinished = _unfinished(comparison.runs, root)
    _rests(unfinished)  # refuses what no verdict could be on
    declare(comparison, root, amend=amend)
    if shown:
        say(comparison.reasons)
    jobs = [Job(one.name, one.name, one.directory(root), one.asked) for one in unfinished]
    lines = [f"{shlex.join(laid_out(job))}\n" for job in jobs]
    Disk().replace_file(root / COMMANDS, "".join(lines).encode())
    return root / COMMANDS


def _unfinished(runs: Sequence[Planned], root: Path) -> list[Planned]:
    return [
        run
        for run in runs
        if run_status(run.directory(root), run.asked).state in ("missing", "begun")
    ]


def _rests(runs: Sequence[Planned]) -> dict[str, Rest]:
    """Return the steps of each run by its name; refuse those that no verdict could be on."""
    groups: dict[str, Rest] = {}
    for run in runs:
        if isinstance(run.asked, Command):
            if run.asked.log["kind"] == "TensorBoard":
                reader()  # rather than after the first training
            continue
        if run.group in groups:  # seeds have the same steps
            continue
        store, length = open_store(run.config), run.config.model.length
        if len(store.valid) <= length:
            has = f"the validation part has {len(store.valid)} tokens, needs at least {length + 1}"
            raise DataError(f"store {store.path}: {has}; prepare with a larger --valid")
        groups[run.group] = Rest(run.config, run.config.schedule(store.sequences(length)))
    return {run.name: groups[run.group] for run in runs if run.group in groups}


def _check_programs(runs: Sequence[Planned]) -> None:
    """Raise SettingError for a command whose program is not here, once and not for each run."""
    for run in runs:
        if isinstance(run.asked, Command) and not which(word := run.asked.words(Path())[0]):
            raise SettingError("command", "must begin with a program that is there", word)


@dataclass(frozen=True)
class _Training:
    """The runs of a comparison that are not at their end (runner.Experiment)."""

    machine: Machine
    attempts: JsonLines
    progress: Line
    left: dict[str, Job]
    time_left: TimeLeft
    runs: int  # of the comparison
    whole: int  # FLOP, or commands, that were left when it began
    on_end: Callable[[Path], None]
    began: float = field(default_factory=time.monotonic)

    def jobs_to_run(self, running: Sequence[Job]) -> Sequence[Job]:
        for job in running:
            last = last_record(RunPaths(job.directory).metrics)
            if isinstance(last, StepRecord) and isinstance(job.config, Config):
                self.time_left.learn(job.name, last)
        done = self.whole - (int(self.time_left.work()[1]) or len(self.left))
        self.progress.update(done, f"{self._count()} ended", self.time_left.seconds)
        return list(self.left.values())

    def _count(self) -> str:
        return f"{self.runs - len(self.left)} of {self.runs}"

    def starting(self, job: Job) -> None:
        jobs, threads = self.machine.jobs, self.machine.threads
        self.attempts.write({"run": job.name, "event": "started", "jobs": jobs, "threads": threads})

    def ended(self, process: Process, event: Event, message: str) -> None:
        if event != "ended":
            return
        name = process.job.name
        del self.left[name]
        self.time_left.end(name)
        self.attempts.write({"run": name, "event": "ended", "message": message})
        spent = clock_time(time.monotonic() - self.began)
        result = message or _loss(process.job.directory)
        self.say(f"{self._count()}  {spent}  {name}: {result}")
        self.on_end(process.job.directory)

    def say(self, text: str) -> None:
        self.progress.say(text)


def _loss(directory: Path) -> str:
    last = read_metrics(directory).evaluations[-1]
    return f"validation loss {number(last.loss, missing='not finite')}"
