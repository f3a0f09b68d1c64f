"""Runs: a new one, or an old one from a checkpoint; everything around the loop."""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Literal

import torch

from lengthen.checkpoint import write as commit
from lengthen.checkpoint.manager import checkpoint_manager
from lengthen.checkpoint.read import Checkpoint, listed, load_newest, load_step
from lengthen.checkpoint.train_state import log_size
from lengthen.config.load import (
    Source,
    as_trained,
    differences,
    flat,
    load,
    nested,
    recorded,
    with_auto_decided,
    with_overrides,
)
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
from lengthen.run.directory import MetricsLog, RunPaths
from lengthen.training.loop import RunContext, RunSummary, StopSignal, carry_out
from lengthen.training.ownership import own_directory
from lengthen.training.trainer import Trainer
from lengthen.util.console import line, note
from lengthen.util.disk import Disk, as_path
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
    recipe: Source,
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: Literal["auto"] | None = None,
    quiet: bool = False,
    disk: Disk | None = None,
) -> RunSummary:
    """Train a new run in `out` to the end of its budget.

    `recipe` is a recipe's name, a TOML file or a configuration; `data` a token store; `settings`
    lie over the recipe, as {"pacing": {"start": 8}} or {"pacing.start": 8}. `overwrite` replaces an
    earlier run. With `resume="auto"` a run of the same configuration that lies there already
    continues instead. Progress goes to the error stream, unless `quiet`. `disk` carries out what is
    written, and a test may give one that fails.

    Raises SettingError, DataError, BusyError, MemoryLimitError, StorageError, UnstableError,
    PeerError and, after saving, StoppedError.

    >>> short = {"model": {"layers": 1, "width": 16, "heads": 2}, "budget.tokens": 20_000}
    >>> summary = lengthen.train(
    ...     "laptop-2min", data="store", out="runs/second", settings=short, quiet=True
    ... )
    >>> summary.tokens, summary.validation_loss < 6
    (20000, True)
    """
    if resume not in (None, "auto"):
        raise SettingError("resume", 'must be "auto" or None', resume)
    out = as_path("out", out)
    config, notes = load(recipe, settings, data=data)
    if not quiet:
        for one in notes:
            note(one)
    return _train(config, out, overwrite, resume is not None, quiet, disk or Disk())


def _train(
    config: Config, out: Path, overwrite: bool, resume_auto: bool, quiet: bool, disk: Disk
) -> RunSummary:
    store = open_store(config)
    config = with_store(config, store)
    paths = RunPaths(out)
    if resume_auto and paths.config.is_file():
        _must_be_the_same(config, paths)
        if listed(paths.checkpoints):
            own = _settings_of_this_process(config, paths)
            return resume(out, settings=own, quiet=quiet, disk=disk)
        overwrite = True  # it died before its first checkpoint
    runlog.check_new(out, overwrite=overwrite)
    with ExitStack() as stack:
        context = stack.enter_context(join_process_group(config.run))
        own_directory(stack, out, context, "train anew", config)
        if context.is_rank_zero:
            _must_not_have_begun(paths, resume_auto=resume_auto)
        micro_tokens = choose_micro_tokens(config, store, context)
        config = with_overrides(config, {"batch": {"micro_tokens": micro_tokens}})
        if context.is_rank_zero:
            runlog.clear(disk, paths)
            _write_run_files(disk, paths, config, store, context)
        trainer, stop = _trainer(stack, config, store, context)
        return carry_out(_run_context(stack, trainer, paths, disk, stop, shown=not quiet))


def resume(
    run: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    checkpoint: str | None = None,
    quiet: bool = False,
    disk: Disk | None = None,
) -> RunSummary:
    """Continue a run from its newest good checkpoint, or from the one called `checkpoint`.

    `settings` change some of the run's own, such as its budget; they are recorded as an event and
    in config.toml. Raises what `train` raises, and CheckpointError.

    >>> summary = lengthen.resume("runs/first", settings={"budget.tokens": 30_000}, quiet=True)
    >>> summary.tokens
    30000
    """
    paths = runlog.open_run(as_path("run", run))
    changes = nested(settings)
    _refuse_fixed(changes)
    config, notes = load(paths.config, changes)
    config = with_auto_decided(config)
    store = open_store(config)
    config = with_overrides(config, {"data": {"path": str(store.path.resolve())}})
    disk = disk or Disk()
    with ExitStack() as stack:
        context = stack.enter_context(join_process_group(config.run))
        source = checkpoint or "the newest checkpoint"
        own_directory(stack, paths.root, context, f"resume from {source}", config)
        if context.is_rank_zero:
            commit.sweep(disk, paths.checkpoints)
        start, passed_over = _start(paths, checkpoint, context)
        size = choose_micro_tokens(config, store, context)
        config = with_overrides(config, {"batch": {"micro_tokens": size}})
        trainer, stop = _trainer(stack, config, store, context)
        trainer.restore(start)
        _check_budget(trainer)
        # Only now, with everything in hand that could be refused, do the run's files change.
        discarded = _rewind(disk, paths, config, start) if context.is_rank_zero else 0
        work = _run_context(stack, trainer, paths, disk, stop, shown=not quiet)
        work.saves.step = start.step
        work.saves.verified.add(start.path.name)
        for text in [*notes, *passed_over, *_changed_numerics(trainer, start)]:
            work.line.say(text)
            work.event("note", text=text)
        since = _overrides(changes, config, start)
        work.event("resumed", discarded_lines=discarded, overrides=since)
        del start  # its files are mapped as long as it lives, and a later rotation deletes them
        return carry_out(work)


def _must_not_have_begun(paths: RunPaths, *, resume_auto: bool) -> None:
    # Looked at before the directory was ours: whoever held it may have saved since.
    if resume_auto and listed(paths.checkpoints):
        way_on = "run the same command again"
        raise BusyError(f"{paths.root} has just been saved by another process; {way_on}")


def _start(
    paths: RunPaths, name: str | None, context: DistributedContext
) -> tuple[Checkpoint, list[str]]:
    if name is not None:
        return load_step(paths.checkpoints, name, context), []
    return load_newest(paths.checkpoints, context)


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


def _settings_of_this_process(config: Config, paths: RunPaths) -> Tables:
    """Return what a resumed run takes from this process: the store's place, smaller batches."""
    there = load(paths.config)[0]
    asked, used = config.batch.micro_tokens, there.batch.micro_tokens
    own: Tables = {}
    if there.data.path != config.data.path:
        own["data"] = {"path": config.data.path}
    # A run that ran out of memory continues in smaller micro-batches than were asked for.
    if asked != "auto" and used != "auto" and asked < used:
        own["batch"] = {"micro_tokens": asked}
    return own


def _overrides(asked: Tables, config: Config, start: Checkpoint) -> Tables:
    """Return every setting that is not as the checkpoint was trained with, and a store's new place.

    More than what was asked for: an earlier resume may have died before its first save. The steps
    that told of it are set aside, and its settings stay. And less: what was so before is no change.
    """
    before = flat(recorded(start.state))
    if not before:
        return asked
    now = flat(as_trained(config))
    found = {n: v for n, v in flat(asked).items() if n not in now and n not in before}
    names = sorted(now.keys() | before.keys())
    found |= {n: now.get(n) for n in names if now.get(n) != before.get(n)}
    tables: dict[str, Tables] = {}
    for name, value in found.items():
        table, _, setting = name.partition(".")
        tables.setdefault(table, {})[setting] = value
    return tables


def _must_be_the_same(config: Config, paths: RunPaths) -> None:
    there = load(paths.config)[0]
    # How a step is cut changes no result beyond rounding.
    own = {"batch": {"micro_tokens": config.batch.micro_tokens}, "data": {"path": config.data.path}}
    there = with_overrides(there, own)
    for name, (asked, before) in sorted(differences(config, there).items()):
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
    saved, now = start.state.get("numerics"), trainer.numerics()
    before = saved if isinstance(saved, dict) else {}
    changed = [name for name in now if before.get(name) != now[name]]
    return [
        f"{name} was {before.get(name)}, is {now[name]}: equal to rounding, not to the last digit"
        for name in changed
    ]
