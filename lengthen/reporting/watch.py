"""A run, live in the terminal, read from metrics.jsonl while another process writes it."""

import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lengthen.analysis.instability import height
from lengthen.config import load as settings
from lengthen.core.loss_ratio import UNSTABLE
from lengthen.data.open_store import open_store
from lengthen.reporting.gather import runs_below
from lengthen.run.directory import RunPaths, open_run
from lengthen.run.metrics import LINE_LIMIT
from lengthen.run.records import EvalRecord, Event, ProbeRecord, StepRecord, from_json
from lengthen.util.console import clock_time
from lengthen.util.errors import DataError, LengthenError, SettingError, printable
from lengthen.util.tables import Table, counted, facts, laid_out, number

RECENT = 60  # steps that the speed is taken over
EVENTS = 5  # the last ones that are shown
SILENCE = 10.0  # seconds without a line before the screen says so
KNOWN = 1024  # bytes before the place read up to, by which a changed file is known
COLUMNS = ("tokens", "length", "loss", "valid")  # of a table of several runs
LOCKS = Path("/proc/locks")


@dataclass
class LogSummary:
    """What the lines of a log say so far; its size does not grow with them."""

    lines: int = 0
    unreadable: int = 0  # lines
    finished: bool = False  # the budget is spent, its end evaluated and saved
    step: StepRecord | None = None  # the last one
    probe: ProbeRecord | None = None
    evaluation: EvalRecord | None = None
    saved: int | None = None  # step of the last save
    best: float | None = None  # validation loss, nats
    unstable: int = 0  # steps
    recent: deque[StepRecord] = field(default_factory=lambda: deque(maxlen=RECENT))
    events: deque[str] = field(default_factory=lambda: deque(maxlen=EVENTS))

    def add(self, line: bytes) -> None:
        """Take in one line; one that is none of ours is counted."""
        self.lines += 1
        match from_json(line):
            case StepRecord() as step:
                self.step, self.finished = step, False
                self.recent.append(step)
                self.unstable += height(step) > UNSTABLE
            case EvalRecord() as evaluation:
                self.evaluation = evaluation
                losses = (self.best, evaluation.loss)
                self.best = min((loss for loss in losses if loss is not None), default=None)
            case ProbeRecord() as probe:
                self.probe = probe
            # Saves stand apart from the other events: so many would leave none in sight.
            case Event(name="saved") as event:
                self.saved = event.step
            case Event() as event:
                self.finished = event.name == "finished"  # a resume takes the end back
                facts = "".join(f"  {name} {value}" for name, value in event.facts.items() if value)
                self.events.append(printable(f"step {event.step}  {event.name}{facts}")[:500])
            case None:
                self.unreadable += 1

    @property
    def speed(self) -> float | None:
        """Trained tokens per second over the last steps; None where that cannot be told."""
        at = [(record.tokens or 0, record.seconds or 0.0) for record in self.recent]
        tokens, seconds = (at[-1][n] - at[0][n] if at else 0 for n in (0, 1))
        return tokens / seconds if tokens > 0 and seconds > 0 else None


@dataclass
class Follower:
    """Reads only what is new of a log; one that was cut or replaced, from its beginning."""

    path: Path
    summary: LogSummary = field(default_factory=LogSummary)
    offset: int = 0  # bytes that are read
    known: bytes = b""  # the last of them
    written: float = field(default_factory=time.time)  # when the log last grew

    def catch_up(self) -> None:
        """Take in the whole lines that are new; a line without its end waits for it."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:  # the run has not begun, or begins again
            self._forget()
            return
        with file:
            self.written = os.fstat(file.fileno()).st_mtime
            file.seek(self.offset - len(self.known))
            # A resume cuts the file and may have written more than that since: its size tells
            # little, but no two lines of one step end in the same seconds.
            if file.read(len(self.known)) != self.known:
                self._forget()
                file.seek(0)
            for line in iter(lambda: file.readline(LINE_LIMIT), b""):
                if not line.endswith(b"\n") and len(line) < LINE_LIMIT:
                    return
                self.offset += len(line)
                self.known = (self.known + line)[-KNOWN:]
                self.summary.add(line)

    def _forget(self) -> None:
        self.summary, self.offset, self.known = LogSummary(), 0, b""


@dataclass(frozen=True)
class View:
    """A run at one moment."""

    name: str
    summary: LogSummary
    budget: int | None  # tokens; None where it is in epochs over a store that is gone
    running: bool | None  # whether a process owns the run; None where that is not known
    owner: str  # which one does, or did
    silence: float  # seconds since the log last grew

    @property
    def state(self) -> str:
        """One of finished, stopped, silent and running."""
        if self.summary.finished:
            return "finished"
        if self.running is False:
            return "stopped"
        return "silent" if self.silence > SILENCE else "running"


def watch(run: Path, *, every: float = 2.0, once: bool = False) -> int:
    """Show a run in the terminal until it has finished, looking every `every` seconds; return 0.

    Of a directory of runs, such as a comparison's, it shows all, until none is trained any more.
    `once` shows one look. Without a terminal it prints a plain line whenever there is something new
    of a run. A single run that has stopped is waited for: it may be resumed. Raises
    SettingError where `run` is no directory with a run.
    """
    if not 0 < every < 1e6:
        raise SettingError("--every", "must be above 0, in seconds", every)
    looks = _looks(run, every)
    console = Console()
    if console.is_interactive:
        if once:
            print(drawn(next(looks), console.width))
        else:
            _draw(console, looks)
        return 0
    printed: dict[str, tuple[int, str]] = {}
    for views in islice(looks, 1) if once else looks:
        for view in views:
            news = (view.summary.lines, view.state)
            if news != printed.get(view.name):
                print(plain(view), flush=True)
            printed[view.name] = news
    return 0


def _draw(console: Console, looks: Iterator[list[View]]) -> None:
    """Draw every look over the one before; the last one stays."""
    shown = ""
    try:
        # A screen of its own is drawn as a whole, whatever a resize has made of its lines.
        with Live(console=console, auto_refresh=False, screen=True) as live:
            for views in looks:
                shown = drawn(views, console.width)
                live.update(Text(fitting(views, console.width, console.height)), refresh=True)
    finally:
        print(shown)


def _looks(root: Path, every: float) -> Iterator[list[View]]:
    """Yield the run in `root`, or all runs below it, every so many seconds, to their end."""
    is_run = RunPaths(root).config.is_file() or not any(_known_below(root))
    following = {"": _views(open_run(root))} if is_run else {}
    while True:
        carried_out, _ = _owner(RunPaths(root))  # a run may begin as long as somebody does
        for paths in () if is_run else _known_below(root):
            name = printable(str(paths.root.relative_to(root)))
            if name not in following:
                following[name] = _views(paths, name)
        views = [next(one) for one in following.values()]
        yield views
        ends = ("finished",) if is_run else ("finished", "stopped")
        if (is_run or not carried_out) and all(view.state in ends for view in views):
            return
        time.sleep(every)


def _known_below(root: Path) -> Iterator[RunPaths]:
    """Yield the runs below `root` that have a configuration: without one there is no budget."""
    return (paths for paths in map(RunPaths, runs_below(root)) if paths.config.is_file())


def _views(paths: RunPaths, name: str = "") -> Iterator[View]:
    """Yield the run as it is each time."""
    name, follower = name or printable(paths.root.resolve().name), Follower(paths.metrics)
    budget = _budget(paths)
    while True:
        running, owner = _owner(paths)
        follower.catch_up()  # after the lock: of an owner that is gone every line is there
        if not follower.summary.finished:
            # A resume may change it; one that is writing the file leaves the old one for now.
            with suppress(LengthenError, OSError):
                budget = _budget(paths)
        silence = max(0.0, time.time() - follower.written)
        yield View(name, follower.summary, budget, running, owner, silence)


def _budget(paths: RunPaths) -> int | None:
    tables = settings.read_toml(paths.config)
    tokens = tables.get("budget", {}).get("tokens")
    if isinstance(tokens, int):  # another training loop's run has this much of a configuration
        return tokens
    if "command" in tables:
        return None
    config = settings.load_run(paths.config)
    try:
        store = open_store(config)
    except DataError:
        return None
    return config.schedule((len(store.train) - 1) // config.model.length).budget


def _owner(paths: RunPaths) -> tuple[bool | None, str]:
    """Return whether a process owns the lock, and which one does or did.

    Trying the lock would tell, and would turn away a process that wants it at that moment. So the
    kernel's list is read, where there is one: it knows the locks of this machine.
    """
    try:
        process = json.loads(paths.lock.read_text(encoding="utf-8"))
        owner = printable(f"pid {process['pid']} on {process['host']} since {process['start']}")
        elsewhere = process["host"] != socket.gethostname() or paths.lease.exists()
        if elsewhere or not LOCKS.exists():
            return None, owner[:200]
        return f":{paths.lock.stat().st_ino} " in LOCKS.read_text(encoding="utf-8"), owner[:200]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, ""


def plain(view: View) -> str:
    """Return the run in one line of text."""
    facts = [f"{name} {text}" for name, text in _facts(view)]
    return "  ".join([view.name, _state(view), *facts])


def drawn(views: Sequence[View], width: int) -> str:
    """Return the run, or a row for each of several, as a terminal of so many columns shows it."""
    if len(views) != 1:
        known = [dict(_facts(view)) for view in views]
        rows = [
            (view.name, view.state, *(own.get(name, "-") for name in COLUMNS))
            for view, own in zip(views, known, strict=True)
        ]
        return "\n".join(laid_out(Table("", ("run", "state", *COLUMNS), tuple(rows)), width))
    (view,) = views
    events = (("event", event) for event in view.summary.events)
    lines = [("state", _state(view)), *_facts(view), *events]
    return "\n".join([view.name, *laid_out(facts(lines), width)])


def fitting(views: Sequence[View], width: int, height: int) -> str:
    """Return what a screen of so many lines has room for: finished runs are left out first."""
    whole = drawn(views, width)
    lines = whole.count("\n") + 1
    ordered = sorted(views, key=lambda view: view.state == "finished")
    for kept in range(len(views) * height // lines if lines > height else 0, 1, -1):
        text = drawn(ordered[:kept], width)
        if text.count("\n") + 2 <= height:
            return f"{text}\n{counted(len(views) - kept, 'more run')}"
    return whole


def _state(view: View) -> str:
    state = f"no line for {view.silence:,.0f} seconds" if view.state == "silent" else view.state
    owned = view.owner and view.state in ("running", "silent")
    return f"{state} ({view.owner})" if owned else state


def _facts(view: View) -> Iterator[tuple[str, str]]:
    """Yield what there is to say, as a name and its text."""
    summary, step = view.summary, view.summary.step
    if (last := step or summary.evaluation) is None:
        yield "step", "0"
        return
    yield "step", f"{last.step:,}"
    yield "tokens", _tokens(view, last.tokens or 0)
    for name in ("length", "rows"):  # another training loop may not log them
        if (count := getattr(step, name, None)) is not None:
            yield name, f"{count:,}"
    if step is not None:
        yield "loss", _loss(step)
    if summary.probe is not None:
        yield "probe", _loss(summary.probe)
    if (valid := summary.evaluation) is not None:
        yield "valid", f"{_loss(valid)} (best {number(summary.best)}) at step {valid.step:,}"
    if step is not None and step.lr is not None:
        yield "rate", f"{step.lr:.2e}"
    yield "tokens/s", number(summary.speed, 0)
    yield "unstable", f"{summary.unstable:,}"
    if summary.saved is not None:
        yield "saved", f"step {summary.saved:,}"
    if summary.unreadable:
        yield "unreadable lines", f"{summary.unreadable:,}"


def _loss(record: StepRecord | ProbeRecord | EvalRecord) -> str:
    loss = number(record.loss, missing="not finite")
    return loss if isinstance(record, EvalRecord) else f"{loss} (ratio {number(record.loss_ratio)})"


def _tokens(view: View, done: int) -> str:
    budget, speed = view.budget, view.summary.speed
    if budget is None:
        return f"{done:,}"
    if view.summary.finished:
        row = view.summary.step.length if view.summary.step else None
        # Another training loop may end before its budget is spent.
        short = row is not None and done < budget < done + row
        return f"{done:,} of {budget:,}" + ", the rest is less than one row" * short
    text = f"{done:,} of {budget:,} ({100 * done // budget}%)"
    if not speed:
        return text
    return f"{text}, {clock_time(max(0, budget - done) / speed)} left"
