"""`lengthen tune`: find start and duration by short trials, write them down with their evidence."""

import json
from collections.abc import Sequence
from pathlib import Path

from lengthen.bind import open_store
from lengthen.config import Config
from lengthen.devices import gpus, usable_cores
from lengthen.disk import Disk
from lengthen.errors import UnstableError
from lengthen.processes import Machine, machine_for
from lengthen.report.gather import NamedRun, read_environment
from lengthen.report.page import write
from lengthen.runlog import RunPaths
from lengthen.tables import console, printed
from lengthen.tune.bill import bill
from lengthen.tune.carry import carry_out
from lengthen.tune.question import Question, ask
from lengthen.tune.search import FIRST, End, Setting, next_step
from lengthen.tune.told import (
    Found,
    facts,
    perplexity_panel,
    sentences,
    trials_table,
    way_out,
)
from lengthen.tune.trials import Seen, place_of

TUNED, PAGE, FACTS = "tuned.toml", "tune.html", "tune.json"  # in a tuner's directory
CORES = 4  # for each trial: speculation beside the needed one is only worth what that leaves idle


def tune(
    config: Config,
    root: Path,
    *,
    starts: Sequence[int] = (),
    judge_tokens: int | None = None,
    aggressive: bool = False,
    jobs: int | None = None,
    threads: int | None = None,
    shown: bool = True,
) -> None:
    """Find start and duration for `config` by trials in `root`; print and write what was found.

    Writes tuned.toml, tune.html and tune.json. `starts` are tried in rising order; `judge_tokens`
    of the validation part are read by each evaluation. Raises SettingError and DataError for what
    cannot be tuned, BusyError, StoppedError after a signal, UnstableError where no trial was calm,
    and for a trial that crashed what it ended with.
    """
    question = ask(
        config,
        open_store(config),
        starts=starts,
        judge_tokens=judge_tokens,
        aggressive=aggressive,
    )
    machine = _machine(question, jobs, threads)
    seen = carry_out(question, root, machine, shown=shown)
    found = _found(question, seen)
    _write(root, found)
    out = console()
    out.print(printed(trials_table(found)))
    for sentence in sentences(found):
        print(sentence)
    print(f"report  {root / PAGE}")
    if found.chosen is None:
        starts_tried = ", ".join(map(str, question.space.starts))
        what = f"no trial was calm: start {starts_tried} at T = {FIRST * question.warmup}"
        raise UnstableError(f"{what}; {way_out(question)}")
    print(f"next    lengthen train {root / TUNED} --out RUN")


def _machine(question: Question, jobs: int | None, threads: int | None) -> Machine:
    first = question.training(Setting(question.space.starts[0], FIRST))
    devices = 0 if first.run.device == "cpu" else gpus()
    most = devices or max(1, usable_cores() // CORES)
    return machine_for([first], most if jobs is None else max(1, jobs), jobs, threads)


def _found(question: Question, seen: dict[Setting, Seen]) -> Found:
    known = {setting: one.is_calm for setting, one in seen.items() if one.is_decided}
    end = next_step(question.space, known)
    assert isinstance(end, End)
    trials = list(seen.values())
    likely = end.chosen or Setting(question.space.starts[-1], FIRST)
    return Found(question, end.chosen, trials, bill(question, trials, likely))


def _write(root: Path, found: Found) -> None:
    disk = Disk()
    tuned = root / TUNED
    if found.chosen is None:
        disk.remove(tuned)  # one that another search has left here
    else:
        comment = f"# lengthen tune: {sentences(found)[0]} {_evidence(found)}\n"
        text = comment + found.question.training(found.chosen).to_toml()
        disk.replace_file(tuned, text.encode())
    disk.replace_file(root / FACTS, (json.dumps(facts(found), indent=1) + "\n").encode())
    write(
        root / PAGE,
        [_shown(root, one) for one in found.seen if one.metrics.of("step")],
        title="lengthen tune",
        verdicts=sentences(found),
        tables=[trials_table(found)],
        panels=[perplexity_panel(found)],
    )


def _evidence(found: Found) -> str:
    share = f"{100 * found.bill.flop_share:.1f} % of one training's FLOP"
    chosen, text = found.chosen, f"{found.bill.trials} trials, {share}."
    if chosen is not None and chosen.rate * chosen.rows > 1:
        text += f" --aggressive: {chosen.rate} x the rate, {chosen.rows} x the rows."
    return text


def _shown(root: Path, one: Seen) -> NamedRun:
    environment = read_environment(RunPaths(place_of(root, one.trial)).environment)
    return NamedRun(one.trial.label, one.metrics, environment, one.trial.config.tables())
