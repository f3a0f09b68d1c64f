"""Runs: a new one, or an old one from a checkpoint; everything around the loop."""

import json
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import torch

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint import write as commit
from lengthen.checkpoint.manager import checkpoint_manager
from lengthen.checkpoint.read import Checkpoint
from lengthen.checkpoint.train_state import log_size
from lengthen.config import load as settings
from lengthen.config.schema import Config, Tables
from lengthen.data.open_store import open_store, with_store
from lengthen.data.store import Store
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.device import described
from lengthen.distributed.launch import join_process_group
from lengthen.distributed.memory import (
    cpu_memory_limit,
    fit_check,
    free_memory,
    is_out_of_memory,
    micro_tokens_within,
)
from lengthen.distributed.subnormals import flushes_subnormals
from lengthen.evaluation.results import set_aside
from lengthen.run import directory as runlog
from lengthen.run.directory import MetricsLog, Record, RunPaths
from lengthen.training.loop import RunContext, StopSignal, carry_out
from lengthen.training.trainer import Trainer
from lengthen.util.console import line
from lengthen.util.disk import Disk
from lengthen.util.errors import BusyError, DataError, SettingError

# What a checkpoint was built on: another value would make it another run.
FIXED = {
    ("data", "store_id"),
    ("model", "*"),
    ("batch", "leftovers"),
    ("batch", "reuse_after"),
    ("run", "seed"),
}


def train(
    config: Config,
    out: Path,
    *,
    overwrite: bool = False,
    resume_auto: bool = False,
    disk: Disk | None = None,
    shown: bool = True,
) -> Record:
    """Train a new run in `out` to the end of its budget; return its summary.

    With `resume_auto` a run of the same configuration that lies there already goes on instead.
    Raises SettingError, DataError, BusyError, MemoryLimitError, StorageError, UnstableError and,
    after saving, StoppedError.
    """
    store = open_store(config)
    config = with_store(config, store)
    paths = RunPaths(out)
    if resume_auto and paths.config.is_file():
        _must_be_the_same(config, paths)
        if checkpoint.listed(paths.checkpoints):
            return resume(out, overrides=_own_way(config, paths), disk=disk, shown=shown)
        overwrite = True  # it died before its first checkpoint
    runlog.check_new(out, overwrite=overwrite)
    disk = disk or Disk()
    with ExitStack() as stack:
        context = stack.enter_context(join_process_group(config.run))
        _take(stack, out, context, "train anew", config)
        if context.is_rank_zero:
            _must_not_have_begun(paths, resume_auto=resume_auto)
        micro_tokens = choose_micro_tokens(config, store, context)
        config = settings.with_overrides(config, {"batch": {"micro_tokens": micro_tokens}})
        if context.is_rank_zero:
            runlog.clear(disk, paths)
            _write_run_files(disk, paths, config, store, context)
        trainer, stop = _trainer(stack, config, store, context)
        return carry_out(_run_context(stack, trainer, paths, disk, stop, shown))


def resume(
    out: Path,
    *,
    overrides: Tables | None = None,
    name: str | None = None,
    disk: Disk | None = None,
    shown: bool = True,
) -> Record:
    """Go on with a run from its newest good checkpoint, or from the one called `name`.

    `overrides` are recorded as an event and in config.toml. Raises what `train` raises, and
    CheckpointError.
    """
    paths = runlog.open_run(out)
    _refuse_fixed(overrides or {})
    config, notes = settings.load(str(paths.config), overrides)
    config = settings.with_auto_decided(config)
    store = open_store(config)
    config = settings.with_overrides(config, {"data": {"path": str(store.path.resolve())}})
    disk = disk or Disk()
    with ExitStack() as stack:
        context = stack.enter_context(join_process_group(config.run))
        _take(stack, out, context, f"resume from {name or 'the newest checkpoint'}", config)
        if context.is_rank_zero:
            commit.sweep(disk, paths.checkpoints)
        start, passed_over = _start(paths, name, context)
        size = choose_micro_tokens(config, store, context)
        config = settings.with_overrides(config, {"batch": {"micro_tokens": size}})
        trainer, stop = _trainer(stack, config, store, context)
        trainer.restore(start)
        _check_budget(trainer)
        # Only now, with everything in hand that could be refused, do the run's files change.
        discarded = _rewind(disk, paths, config, start) if context.is_rank_zero else 0
        run = _run_context(stack, trainer, paths, disk, stop, shown)
        run.saves.step = start.step
        run.saves.verified.add(start.path.name)
        for note in [*notes, *passed_over, *_changed_numerics(trainer, start)]:
            run.line.say(note)
            run.event("note", text=note)
        since = _overrides(overrides or {}, config, start)
        run.event("resumed", discarded_lines=discarded, overrides=since)
        del start  # its files are mapped as long as it lives, and a later rotation deletes them
        return carry_out(run)


def _take(
    stack: ExitStack, out: Path, context: DistributedContext, verb: str, config: Config
) -> None:
    """Own the run's directory, on the first rank, and see that all ranks mean the same by it."""
    context.barrier()  # nobody looks at the directory any more once the first rank writes
    mark = context.broadcast(stack.enter_context(runlog.owned(out)) if context.is_rank_zero else 0)
    seen = context.all_gather([int(runlog.mark_in(out) == mark)])
    strangers = [rank for rank, (same,) in enumerate(seen) if not same]
    if strangers:
        rule = f"must be one directory for all ranks; rank {strangers[0]} sees another than rank 0"
        raise SettingError("RUN", rule, str(out), "put it on a disk that all of them share")
    _must_agree(context, verb, config)


def _must_agree(context: DistributedContext, verb: str, config: Config) -> None:
    """Raise SettingError on every rank where one is about to do something else than the first."""
    plans = [
        json.loads(text) for text in context.all_gather_text(json.dumps([verb, _said(config)]))
    ]
    (first_verb, first), *others = plans
    for rank, (other_verb, said) in enumerate(others, start=1):
        if other_verb != first_verb:
            rule = f"rank 0 is to {first_verb}, rank {rank} to {other_verb}: a shared disk is late"
            raise SettingError("RUN", rule, hint="run the command again")
        for name in sorted(first.keys() | said.keys()):
            if first.get(name) != said.get(name):
                rule = f"must be the same on all ranks; rank 0 has {first.get(name)!r}"
                raise SettingError(name, f"{rule}, rank {rank} {said.get(name)!r}")


def _said(config: Config) -> Tables:
    """Return the settings in which ranks have to agree: all, but where their store lies."""
    return settings.flat(settings.as_trained(config))


def _must_not_have_begun(paths: RunPaths, *, resume_auto: bool) -> None:
    # Looked at before the directory was ours: whoever held it may have saved since.
    if resume_auto and checkpoint.listed(paths.checkpoints):
        way_on = "run the same command again"
        raise BusyError(f"{paths.root} has just been saved by another process; {way_on}")


def _start(
    paths: RunPaths, name: str | None, context: DistributedContext
) -> tuple[Checkpoint, list[str]]:
    if name is not None:
        return checkpoint.load_step(paths.checkpoints, name, context), []
    return checkpoint.load_newest(paths.checkpoints, context)


def _check_budget(trainer: Trainer) -> None:
    trained, budget = trainer.train_state.counters.tokens, trainer.schedule.budget
    if budget < trained:
        setting = "tokens" if trainer.config.budget.epochs is None else "epochs"
        rule = f"must be at least the {trained} tokens that are trained already"
        raise SettingError(f"budget.{setting}", rule, budget)


def _rewind(disk: Disk, paths: RunPaths, config: Config, start: Checkpoint) -> int:
    """Take the run's files back to the checkpoint; return the lines of metrics set aside."""
    # Checkpoints first: a newer one would not be believed once its lines are cut.
    commit.set_aside(disk, paths.checkpoints, start.step)
    discarded = runlog.cut_metrics(disk, paths, log_size(start.state))
    with suppress(DataError):  # a file that is not ours is shown by nobody, and stays
        set_aside(disk, paths.evaluations, lambda result: (result.step or 0) > start.step)
    disk.replace_file(paths.config, config.to_toml().encode())
    return discarded


def _own_way(config: Config, paths: RunPaths) -> Tables:
    """Return what of a run that goes on is this process's: where its store lies, smaller passes."""
    there = settings.load(str(paths.config))[0]
    asked, used = config.batch.micro_tokens, there.batch.micro_tokens
    own: Tables = {}
    if there.data.path != config.data.path:
        own["data"] = {"path": config.data.path}
    # A run that ran out of memory goes on in smaller passes than were asked for.
    if asked != "auto" and used != "auto" and asked < used:
        own["batch"] = {"micro_tokens": asked}
    return own


def _overrides(asked: Tables, config: Config, start: Checkpoint) -> Tables:
    """Return every setting that is not as the checkpoint was trained with, and a store's new place.

    More than what was asked for: an earlier resume may have died before its first save. The steps
    that told of it are set aside, and its settings stay. And less: what was so before is no change.
    """
    before = settings.flat(settings.recorded(start.state))
    if not before:
        return asked
    now = settings.flat(settings.as_trained(config))
    found = {n: v for n, v in settings.flat(asked).items() if n not in now and n not in before}
    names = sorted(now.keys() | before.keys())
    found |= {n: now.get(n) for n in names if now.get(n) != before.get(n)}
    tables: dict[str, Tables] = {}
    for name, value in found.items():
        table, _, setting = name.partition(".")
        tables.setdefault(table, {})[setting] = value
    return tables


def _must_be_the_same(config: Config, paths: RunPaths) -> None:
    there = settings.load(str(paths.config))[0]
    # How a step is cut changes no result beyond rounding.
    own = {"batch": {"micro_tokens": config.batch.micro_tokens}, "data": {"path": config.data.path}}
    there = settings.with_overrides(there, own)
    for name, (asked, before) in sorted(settings.differences(config, there).items()):
        rule = f"--resume auto found a run with {before!r}"
        raise SettingError(name, rule, asked, "choose another --out")


def _refuse_fixed(overrides: Tables) -> None:
    for table, values in overrides.items():
        for setting in values if isinstance(values, dict) else ():
            if (table, setting) in FIXED or (table, "*") in FIXED:
                rule = "cannot change in the middle of a run"
                raise SettingError(f"{table}.{setting}", rule, values[setting], "start a new run")


def choose_micro_tokens(config: Config, store: Store, context: DistributedContext) -> int:
    """Return the tokens of one forward pass: the setting, or what the fit check finds."""
    if config.batch.micro_tokens != "auto":
        return config.batch.micro_tokens
    if context.device.type == "cpu":
        return context.all_reduce_min(
            micro_tokens_within(config, cpu_memory_limit(), context.world_size)
        )
    length = config.model.length
    whole = -(-config.batch.rows // context.world_size) * length
    return fit_check(whole, length, lambda size: trial_fits(config, store, context, size))


def trial_fits(config: Config, store: Store, context: DistributedContext, size: int) -> bool:
    """Try one full-length pass and update on a throw-away trainer; all ranks give one answer."""
    failed = torch.zeros(1, device=context.device)
    alone = DistributedContext(context.device, context.precision)
    try:
        Trainer(config, store, alone, size).trial(size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        failed += 1
    free_memory(context.device)
    return not context.all_reduce_sum(failed).item()


def _write_run_files(
    disk: Disk, paths: RunPaths, config: Config, store: Store, context: DistributedContext
) -> None:
    environment = runlog.environment(sys.argv) | {
        "device": described(context.device),
        "flush_subnormals": flushes_subnormals(),
        "threads": torch.get_num_threads(),
        "tokenizer": store.manifest.tokenizer.sha256,
        "valid": store.manifest.valid.sha256,
    }
    disk.write_file(paths.environment, json.dumps(environment, indent=1).encode())
    for name, data in store.tokenizer_files().items():
        disk.write_file(paths.root / name, data)
    # Whole or not at all: `--resume auto` takes a directory with a configuration for a run.
    disk.replace_file(paths.config, config.to_toml().encode())


def _trainer(
    stack: ExitStack, config: Config, store: Store, context: DistributedContext
) -> tuple[Trainer, StopSignal]:
    stop = stack.enter_context(StopSignal().listening())
    micro_tokens = config.batch.micro_tokens
    assert micro_tokens != "auto"
    return Trainer(config, store, context, micro_tokens, stop), stop


def _run_context(
    stack: ExitStack,
    trainer: Trainer,
    paths: RunPaths,
    disk: Disk,
    stop: StopSignal,
    shown: bool,
) -> RunContext:
    first = trainer.context.is_rank_zero
    log = stack.enter_context(closing(MetricsLog(disk.at("log"), paths.metrics))) if first else None
    drawn = line(trainer.schedule.budget, paths.root.name, shown=shown and first)
    keep, asynchronous = trainer.config.saving.keep, trainer.config.saving.asynchronous
    kept = checkpoint_manager(
        disk.at("save"), paths.checkpoints, keep, trainer.context, asynchronous=asynchronous
    )
    saves = stack.enter_context(kept)
    shown_line = stack.enter_context(drawn)
    asked, found = trainer.config.run.device, described(trainer.context.device)
    shown_line.say(f'computing on {found} (run.device = "{asked}")')
    return RunContext(trainer, paths, log, stop, shown_line, saves)


def _changed_numerics(trainer: Trainer, start: Checkpoint) -> list[str]:
    recorded, now = start.state.get("numerics"), trainer.numerics()
    before = recorded if isinstance(recorded, dict) else {}
    changed = [name for name in now if before.get(name) != now[name]]
    return [
        f"{name} was {before.get(name)}, is {now[name]}: equal to rounding, not to the last digit"
        for name in changed
    ]
