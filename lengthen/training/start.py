"""Start a run: a new one, or one that resumes from a checkpoint; everything around the loop."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Literal

from lengthen.checkpoint.manager import CheckpointManager
from lengthen.checkpoint.read import Checkpoint
from lengthen.checkpoint.read import load as load_checkpoint
from lengthen.checkpoint.train_state import log_size
from lengthen.checkpoint.verify import list_checkpoints
from lengthen.checkpoint.write import remove_incomplete, supersede_after
from lengthen.config.load import (
    Source,
    load,
    load_run,
    nested,
    with_auto_as,
    with_overrides,
)
from lengthen.config.schema import Config, Tables
from lengthen.core.budget_share import BudgetShare
from lengthen.core.custom_pacing import Custom
from lengthen.core.pacing import Adaptive
from lengthen.core.schedule import spans
from lengthen.data.open_store import open_store, with_store
from lengthen.data.store import Store
from lengthen.distributed.auto import decided
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.device import described
from lengthen.distributed.launch import join_process_group
from lengthen.evaluation.results import set_aside
from lengthen.model.cost import parameters
from lengthen.reporting.trackers import OnRecord, check_trackers, guarded, start_trackers
from lengthen.run import directory as runlog
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import JsonLines, cut_metrics
from lengthen.training.changes import (
    budget_error,
    changed_settings,
    check_same_settings,
    local_overrides,
    refuse_fixed,
)
from lengthen.training.fit import with_micro_tokens
from lengthen.training.loop import RunSummary, TrainingLoop
from lengthen.training.minutes import in_tokens
from lengthen.training.ownership import own_directory
from lengthen.training.run_files import write_run
from lengthen.training.trainer import Trainer
from lengthen.training.warm import no_more_graphs, warm
from lengthen.util.console import line, say
from lengthen.util.disk import Disk, as_path
from lengthen.util.errors import BusyError, DataError, SettingError
from lengthen.util.signals import StopSignal


def train(
    recipe: Source,
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: Literal["auto"] | None = None,
    quiet: bool = False,
    on_record: OnRecord | None = None,
    disk: Disk | None = None,
) -> RunSummary:
    """Train a new run in `out` to the end of its budget.

    `recipe` is a recipe's name, a TOML file or a configuration; `data` a token store; `settings`
    override the recipe, as {"pacing": {"start": 8}} or {"pacing.start": 8}. `overwrite` replaces an
    earlier run. With `resume="auto"` an existing run of the same configuration is resumed instead.
    Notes and progress go to the error stream, unless `quiet`. `on_record` is called with each
    record once it is in metrics.jsonl, on rank 0, while training waits; an exception in it is
    printed, and it is not called again. `disk` does all writing; tests pass one that fails.

    Raises SettingError, DataError, BusyError, MemoryLimitError, StorageError, UnstableError,
    PeerError and, after saving, StoppedError.

    >>> small = {"model": {"layers": 1, "width": 16, "heads": 2}, "budget.tokens": 20_000}
    >>> summary = lengthen.train(
    ...     "laptop-2min", data="store", out="runs/second", settings=small, quiet=True
    ... )
    >>> summary.tokens, summary.validation_loss < 6
    (19936, True)
    """
    if resume not in (None, "auto"):
        raise SettingError("resume", 'must be "auto" or None', resume)
    out = as_path("out", out)
    config, notes = load(recipe, settings, data=data)
    if not quiet:
        say(notes)
    shown = not quiet, on_record
    return _train(config, out, overwrite, resume == "auto", disk or Disk(), *shown)


def check_start(
    config: Config, out: Path, *, overwrite: bool, resume_auto: bool
) -> tuple[Config, Store, Config | None]:
    """Return the configuration with its store, and that of a run in `out` which is to go on.

    Raises SettingError and DataError: all that can be refused without the other ranks.
    """
    check_trackers("run.trackers", config.run.trackers)
    store = open_store(config)
    config = with_store(config, store)
    paths = RunPaths(out)
    if resume_auto and paths.config.is_file():
        there = load_run(paths.config)
        if config.budget.minutes is not None:  # they became tokens when that run began
            known: Tables = {"budget": there.budget.model_dump()}
            if config.optimizer.decay_tokens is None:
                known["optimizer"] = {"decay_tokens": there.optimizer.decay_tokens}
            if isinstance(getattr(config.pacing, "duration", 0), BudgetShare):
                known["pacing"] = {"duration": getattr(there.pacing, "duration", None)}
            config = with_store(with_overrides(config, known), store)
        config = with_auto_as(config, there.run)
        check_same_settings(config, there)
        if list_checkpoints(paths.checkpoints):
            return config, store, there
        overwrite = True  # it died before its first checkpoint
    if origin := config.run.branched_from:
        raise SettingError("run.branched_from", "needs `lengthen branch`: this begins anew", origin)
    runlog.check_new(out, overwrite=overwrite)
    return config, store, None


def _train(
    config: Config,
    out: Path,
    overwrite: bool,
    resume_auto: bool,
    disk: Disk,
    shown: bool,
    on_record: OnRecord | None,
) -> RunSummary:
    config, store, there = check_start(config, out, overwrite=overwrite, resume_auto=resume_auto)
    if there is not None:
        overrides = local_overrides(config, there)
        return resume(out, settings=overrides, quiet=not shown, on_record=on_record, disk=disk)
    paths, (config, reasons) = RunPaths(out), decided(config, store)
    with ExitStack() as stack:
        context = stack.enter_context(join_process_group(config.run))
        own_directory(stack, out, context, "train anew", config)
        if shown and context.is_rank_zero:
            say(reasons)
        if resume_auto and context.is_rank_zero and list_checkpoints(paths.checkpoints):
            # It was looked at before this process owned it: the last owner has saved since.
            rule = f"{out} has just been saved by another process"
            raise BusyError(f"{rule}; run the same command again")
        config, micro_tokens = with_micro_tokens(config, store, context)
        if config.budget.minutes is not None:
            config = with_store(in_tokens(config, micro_tokens, context=context), store)
        if context.is_rank_zero:
            facts = {"device": described(context.device), **store.manifest.validation()}
            write_run(disk, paths, config, store.text_tokenizer(), facts)
        stop = stack.enter_context(StopSignal().listening())
        trainer = Trainer(config, store, context, micro_tokens, stop)
        loop = _build_loop(stack, trainer, paths, disk, stop, shown=shown)
        loop.on_record = guarded(on_record)
        return loop.run()


def resume(
    run: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    checkpoint: str | None = None,
    quiet: bool = False,
    on_record: OnRecord | None = None,
    disk: Disk | None = None,
) -> RunSummary:
    """Resume a run from its newest good checkpoint, or from the one called `checkpoint`.

    `settings` change some of the run's own, such as its budget; they are recorded as an event and
    in config.toml. `on_record` is as in `train`. Raises what `train` raises, and CheckpointError.

    >>> summary = lengthen.resume("runs/first", settings={"budget.tokens": 30_000}, quiet=True)
    >>> summary.tokens
    30000
    """
    paths = runlog.open_run(as_path("run", run))
    overrides = nested(settings)
    refuse_fixed(overrides)
    config, notes = load(paths.config, overrides)
    check_trackers("run.trackers", config.run.trackers)
    store, config = open_store(config), with_auto_as(config, load_run(paths.config).run)
    config, reasons = decided(config, store)  # where config.toml was edited to say "auto"
    config = with_store(config, store)
    with ExitStack() as stack:
        context = stack.enter_context(join_process_group(config.run))
        what = f"resume from {checkpoint or 'the newest checkpoint'}"
        own_directory(stack, paths.root, context, what, config)
        loop = resumed(
            stack,
            context,
            paths,
            config,
            store,
            disk or Disk(),
            checkpoint=checkpoint,
            overrides=overrides,
            notes=[*notes, *reasons],
            shown=not quiet,
        )
        loop.on_record = guarded(on_record)
        return loop.run()


def resumed(
    stack: ExitStack,
    context: DistributedContext,
    paths: RunPaths,
    config: Config,
    store: Store,
    disk: Disk,
    *,
    checkpoint: str | None = None,
    overrides: Tables,
    notes: Sequence[str],
    shown: bool,
) -> TrainingLoop:
    """Return the loop of a run that this process owns and that continues from a checkpoint."""
    if context.is_rank_zero:
        remove_incomplete(disk, paths.checkpoints)
    start, damaged = load_checkpoint(paths.checkpoints, checkpoint, context)
    config, micro_tokens = with_micro_tokens(config, store, context)
    changed = changed_settings(overrides, config, start)
    refuse_fixed(changed)  # config.toml may have been edited
    stop = stack.enter_context(StopSignal().listening())
    trainer = Trainer(config, store, context, micro_tokens, stop)
    trainer.restore(start)
    trained, budget = trainer.train_state.counters.tokens, trainer.schedule.budget
    if budget < trained:
        rule = f"must be at least the {trained} tokens that are trained already"
        raise budget_error(config, rule, budget)
    if config.model.positions_start == "spread":  # another pacing has come to another step
        now = trainer.train_state.counters
        for mistake in trainer.schedule.uneven_lengths('model.positions_start is "spread"', now):
            raise SettingError(*mistake)
    # Only now, after everything that could be refused, do the run's files change.
    discarded = _rewind(disk, paths, config, start) if context.is_rank_zero else 0
    loop = _build_loop(stack, trainer, paths, disk, stop, shown=shown, resumed_from=start.step)
    for text in [*notes, *damaged, *_changed_numerics(trainer, start)]:
        loop.note(text)
    loop.event("resumed", discarded_lines=discarded, overrides=changed)
    return loop


def _rewind(disk: Disk, paths: RunPaths, config: Config, start: Checkpoint) -> int:
    """Take the run's files back to the checkpoint; return the lines of metrics set aside."""
    # Checkpoints first: a newer one could not be resumed from once its lines are cut.
    supersede_after(disk, paths.checkpoints, start.step)
    discarded = cut_metrics(disk, paths, log_size(start.state))
    with suppress(DataError):  # a file that is not ours is shown by nobody, and stays
        set_aside(disk, paths.evaluations, lambda result: (result.step or 0) > start.step)
    disk.replace_file(paths.config, config.to_toml().encode())
    return discarded


def _build_loop(
    stack: ExitStack,
    trainer: Trainer,
    paths: RunPaths,
    disk: Disk,
    stop: StopSignal,
    *,
    shown: bool,
    resumed_from: int | None = None,
) -> TrainingLoop:
    context, run, saving = trainer.context, trainer.config.run, trainer.config.saving
    log = None
    if context.is_rank_zero:
        log = stack.enter_context(closing(JsonLines(disk.at("log"), paths.metrics)))
        start_trackers(paths.root, run.trackers)
    checkpoints = CheckpointManager(
        disk.at("save"),
        paths.checkpoints,
        saving.keep,
        context,
        asynchronous=saving.asynchronous,
        good=resumed_from,
    )
    stack.enter_context(closing(checkpoints))
    shown = shown and context.is_rank_zero
    progress = stack.enter_context(line(trainer.schedule.budget, paths.root.name, shown=shown))
    device = f'{described(context.device)} (run.device = "{run.device}")'
    how = f"device {device}, precision {run.precision}, compile {run.compile}"
    progress.say(f"{how}, {_size(trainer)}")
    stack.enter_context(closing(trainer.inputs))
    if seconds := warm(trainer):
        progress.say(f"compiled in {seconds:.1f} s, which are none of the run's")
    stack.enter_context(no_more_graphs(trainer))
    return TrainingLoop(trainer, paths, log, stop, progress, checkpoints)


def _size(trainer: Trainer) -> str:
    """Say how much a run trains: parameters, tokens, and the steps where they are known."""
    schedule = trainer.schedule
    size = f"{parameters(trainer.config.model):,} parameters, {schedule.budget:,} tokens"
    if isinstance(schedule.pacing, Custom):  # whose function is asked step by step
        return size
    calms = (True, False) if isinstance(schedule.pacing, Adaptive) else (True,)
    now = trainer.train_state.counters
    ends = [end for calm in calms for end in [*spans(schedule, calm=calm, counters=now)][-1:]]
    steps = {end.counters.step + end.steps for end in ends} or {now.step}
    size += f", {' to '.join(f'{count:,}' for count in sorted(steps))} steps"
    full = schedule.full_length
    lengths = sorted({end.length for end in ends} or {full})
    if lengths[0] < full:
        size += f"; the last step has length {' to '.join(map(str, lengths))}, not {full}"
    return size


def _changed_numerics(trainer: Trainer, start: Checkpoint) -> list[str]:
    before, now = start.state.get("numerics"), trainer.numerics()
    if not isinstance(before, dict):  # a branch to another order of the tokens repeats no run
        return []
    return [
        f"{name} was {before.get(name)}, is {now[name]}: equal to rounding, not to the last digit"
        for name in now
        if before.get(name) != now[name]
    ]
