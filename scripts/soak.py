"""A run that is killed again and again, beside one that nobody touches: both must end alike.

    python scripts/soak.py                                      what `make soak` does
    python scripts/soak.py --steps 300 --kills 6 --changes 4    a quick look

The first run goes through in one process, and its memory is watched. The second is the same run
under SIGKILL at seeded random moments: of the whole job, or of one process of two, some while they
start. In between it moves from one process to two and back, replicated and sharded by turns, and by
chance saves on the spot or from a copy. Both are in double precision, so that their losses can be
compared to 1e-9. The last line is the verdict; the exit code is 1 where it is bad.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import list_checkpoints
from lengthen.config.load import build
from lengthen.config.schema import Config
from lengthen.core.pacing import Linear
from lengthen.data.prepare import prepare
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import last_record, read_metrics
from lengthen.run.records import EvalRecord, ProbeRecord, StepRecord, to_json

LOSS = 1e-9  # largest relative difference of a loss
MEMORY = 0.01  # largest growth
SETTLED = 0.25  # share of the steps after which memory may not grow any more
TENTH = 0.1  # of what is left: memory is compared between the first and the last of them
LOOK_SECONDS = 0.02  # between two looks at a run
START_SECONDS = 6.0  # within which a process starts up, on an idle machine
STARTING = 0.1  # share of the kills that strike within them
BEHIND_SECONDS = 0.05  # within which a kill follows the step that it waits for
STUCK_SECONDS = 300.0  # without a step nothing more is to be expected
Line = dict[str, Any]  # of a log

EXACT = ("step", "tokens", "length", "rows", "lr", "joined")  # of a step line


@dataclass(frozen=True)
class Ranks:
    """How many processes a part of the run has, and whether each keeps a part of the weights."""

    world_size: int
    sharded: bool = False

    def __str__(self) -> str:
        return (
            "1 process"
            if self.world_size == 1
            else f"2 {'sharded' if self.sharded else 'replicated'}"
        )


TURNS = (Ranks(1), Ranks(2), Ranks(1), Ranks(2, sharded=True))


@dataclass(frozen=True)
class Kill:
    """When to strike and whom: after a step, or so many seconds after the start."""

    ranks: Ranks
    after: int | None
    seconds: float
    victim: int | None  # a rank; None: the whole job
    asynchronous: bool


@dataclass(frozen=True)
class Sample:
    """The memory of the unbroken run."""

    step: int
    resident: int  # bytes


def corpus(folder: Path) -> Path:
    """Return a store of some 60,000 byte tokens, no line like another."""
    words = "the quick brown fox jumps over a lazy dog while seven wizards box".split()
    lines = (" ".join(words[(i * k) % len(words)] for k in range(1, 9)) for i in range(1200))
    (folder / "text.txt").write_text("".join(f"{n} {line}\n" for n, line in enumerate(lines)))
    out = folder / "store"
    prepare([str(folder / "text.txt")], out, tokenizer="bytes", valid=0.1, quiet=True)
    return out


def configuration(store: Path, steps: int, saves: int) -> Config:
    """Return a tiny run of so many steps, with a length warmup over their first quarter."""
    rows, length = 8, 64
    growth = Linear(start=8, end=length, duration=int(SETTLED * steps))
    tables: dict[str, Any] = {
        "data": {"path": str(store)},
        "model": {"layers": 1, "width": 16, "heads": 2, "length": length},
        "pacing": {"kind": "linear", "start": growth.start, "duration": growth.duration},
        "batch": {"rows": rows, "micro_tokens": 512, "reuse_after": 8},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 20},
        "budget": {"tokens": sum(rows * growth(step) for step in range(steps))},
        "evaluation": {"every_steps": max(1, steps // 20), "tokens": 512, "probe_every_steps": 100},
        "saving": {"every_steps": max(1, steps // saves)},
        "run": {"precision": "fp64", "device": "cpu"},
    }
    return build(tables)


def plan(steps: int, kills: int, changes: int, seed: int) -> list[Kill]:
    """Return the kills in order: after ever later steps, with so many changes of the processes."""
    chance = random.Random(seed)
    after = sorted(chance.randrange(1, steps - 1) for _ in range(kills))
    planned = []
    for number, step in enumerate(after):
        ranks = TURNS[number * (changes + 1) // (kills + 1) % len(TURNS)]
        starting = chance.random() < STARTING
        seconds = chance.uniform(0, START_SECONDS if starting else BEHIND_SECONDS)
        victim = chance.choice([None, 0, 1]) if ranks.world_size == 2 else None
        asynchronous = chance.random() < 0.5
        planned.append(Kill(ranks, None if starting else step, seconds, victim, asynchronous))
    return planned


def start(run: Path, file: Path, ranks: Ranks, asynchronous: bool) -> subprocess.Popen[bytes]:
    """Start the run, or go on with it, in so many processes."""
    settings = ["--run.sharded", str(ranks.sharded).lower()]
    settings += ["--saving.asynchronous", str(asynchronous).lower()]
    words = ["resume", str(run), *settings]
    if not list_checkpoints(RunPaths(run).checkpoints):
        words = ["train", str(file), "--out", str(run), "--overwrite", *settings]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        sys.executable,
        *(launcher if ranks.world_size == 2 else []),
        "-m",
        "lengthen",
        *words,
    ]
    with run.with_name(f"{run.name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--quiet"],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def below(process: int) -> Iterator[tuple[int, int | None]]:
    """Yield a process and all that it started, each with its rank if it has one."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(place.parent.name))
    pending = [process]
    while pending:
        one = pending.pop()
        yield one, rank_of(one)
        pending += children.get(one, [])


def rank_of(process: int) -> int | None:
    """Return the rank that a launcher gave a process."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    ranks = [int(one.partition(b"=")[2]) for one in variables if one.startswith(b"RANK=")]
    return ranks[0] if ranks else None


def strike(process: subprocess.Popen[Any], victim: int | None) -> None:
    """Kill a job or one rank of it, and wait until nothing of it is left."""
    if process.poll() is not None:
        return
    everyone = list(below(process.pid))
    chosen = [one for one, rank in everyone if victim is None or rank == victim]
    for one in chosen or [one for one, _ in everyone]:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(timeout=STUCK_SECONDS)


def step_of(run: Path) -> int:
    """Return the step that a run has come to."""
    last = last_record(RunPaths(run).metrics)
    return 0 if last is None else last.step


def written(run: Path) -> int:
    """Return when a run's log was last written to, in nanoseconds; 0 where there is none."""
    log = RunPaths(run).metrics
    return log.stat().st_mtime_ns if log.exists() else 0


def wait_until_after(step: int, process: subprocess.Popen[bytes], run: Path) -> None:
    """Wait until this part of a run writes its log and is after a step.

    Raises RuntimeError where it ends or stands still.
    """
    left, at, since = written(run), -1, time.monotonic()
    while (now := step_of(run)) <= step or written(run) == left:
        if process.poll() is not None:
            raise RuntimeError(f"a part of the run ended with {process.returncode} by itself")
        if now != at:
            at, since = now, time.monotonic()
        if time.monotonic() > since + STUCK_SECONDS:
            raise RuntimeError(f"the run stands still after step {at}")
        time.sleep(LOOK_SECONDS)


def broken(run: Path, file: Path, kills: Sequence[Kill]) -> None:
    """Bring a run to its end through all the kills."""
    for number, kill in enumerate(kills):
        process = start(run, file, kill.ranks, kill.asynchronous)
        try:
            if kill.after is not None:
                wait_until_after(kill.after, process, run)
            time.sleep(kill.seconds)
            strike(process, kill.victim)
        finally:
            strike(process, None)
        whom = "all" if kill.victim is None else f"rank {kill.victim}"
        at = "at the start" if kill.after is None else f"after step {step_of(run)}"
        print(f"  kill {number + 1} of {len(kills)}: {kill.ranks}, {whom}, {at}", flush=True)
    process = start(run, file, Ranks(1), asynchronous=False)
    if process.wait():
        raise RuntimeError(f"the last part of the run ended with {process.returncode}")


def unbroken(run: Path, file: Path) -> list[Sample]:
    """Carry the run out in one process, and watch its memory."""
    process, samples = start(run, file, Ranks(1), asynchronous=False), []
    page = os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        try:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            break
        samples.append(Sample(step_of(run), page * pages))
        time.sleep(0.1)
    if process.wait():
        raise RuntimeError(f"the unbroken run ended with {process.returncode}")
    return samples


def growth(samples: Sequence[Sample], steps: int) -> float:
    """Return how much memory grew after `SETTLED` of the steps, as a share."""
    settled = [sample for sample in samples if SETTLED * steps <= sample.step < steps]
    width = (1 - SETTLED) * steps * TENTH
    first = [s.resident for s in settled if s.step < SETTLED * steps + width]
    last = [s.resident for s in settled if s.step >= steps - width]
    return statistics.median(last) / statistics.median(first) - 1


def difference(ours: Sequence[Line], theirs: Sequence[Line]) -> float:
    """Return the largest relative difference of two runs' losses; raises RuntimeError otherwise."""
    if len(ours) != len(theirs):
        raise RuntimeError(f"{len(ours)} lines where the unbroken run has {len(theirs)}")
    for mine, other in zip(ours, theirs, strict=True):
        for name in EXACT:
            if mine.get(name) != other.get(name):
                raise RuntimeError(
                    f"step {mine['step']}: {name} is {mine[name]}, not {other[name]}"
                )
    pairs = zip(ours, theirs, strict=True)
    return max(abs(float(m["loss"]) / float(o["loss"]) - 1) for m, o in pairs)


def ledger(run: Path) -> object:
    """Return what is left of the corpus after the run."""
    return checkpoint.load_newest(RunPaths(run).checkpoints)[0].state["ledger"]


def saves(run: Path) -> int:
    """Return the saves that the log tells of, those that a kill took back included."""
    logs = [log for log in (RunPaths(run).metrics, RunPaths(run).discarded) if log.exists()]
    events = [event for log in logs for event in read_metrics(log).events]
    return sum(event.name == "saved" for event in events)


def soak(folder: Path, options: argparse.Namespace) -> list[str]:
    """Carry both runs out and print what they come to; return what is wrong, nothing if good."""
    file = folder / "config.toml"
    file.write_text(configuration(corpus(folder), options.steps, options.saves).to_toml())
    whole, torn = folder / "unbroken", folder / "broken"
    began = time.monotonic()
    grown = growth(unbroken(whole, file), options.steps)
    print(f"unbroken: {step_of(whole):,} steps, {saves(whole):,} saves")
    print(f"SOAK_MEMORY_GROWTH: {grown:.4f}", flush=True)
    kills = plan(options.steps, options.kills, options.changes, options.seed)
    broken(torn, file, kills)
    print(f"broken: {step_of(torn):,} steps, {saves(torn):,} saves, {len(kills)} kills")
    changes = sum(a != b for a, b in pairwise([*(kill.ranks.world_size for kill in kills), 1]))
    print(f"changes of the number of processes: {changes}")
    wrong = []
    for kind in (StepRecord, EvalRecord, ProbeRecord):
        metrics = [read_metrics(RunPaths(run).metrics) for run in (torn, whole)]
        off = difference(*([to_json(record) for record in one.of(kind)] for one in metrics))
        name = kind.__name__.removesuffix("Record").lower()
        print(f"SOAK_LOSS_{name.upper()}: {off:.1e}")
        if off > LOSS:
            wrong.append(f"a {name} loss differs by {off:.1e}")
    print(f"SOAK_MINUTES: {(time.monotonic() - began) / 60:.1f}")
    if ledger(torn) != ledger(whole):
        wrong.append("the ledgers differ")
    if grown > MEMORY:
        wrong.append(f"memory grew by {grown:.1%}")
    return wrong


def main() -> int:
    """Soak, and say whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--saves", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--changes", type=int, default=10, help="of the number of processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the runs in this new directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            wrong = soak(folder, options)
        except RuntimeError as error:
            wrong = [str(error)]
    print(f"soak: FAILED: {'; '.join(wrong)}" if wrong else "soak: passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
