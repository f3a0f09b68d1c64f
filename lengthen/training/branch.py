"""Branch a run: a new run that begins with a checkpoint of another, weights and moments kept."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from lengthen.checkpoint.read import Checkpoint
from lengthen.checkpoint.read import load as load_checkpoint
from lengthen.checkpoint.train_state import TrainState, log_size
from lengthen.config.load import (
    build_recorded,
    flat,
    load,
    load_run,
    merge,
    nested,
    recorded,
    with_overrides,
)
from lengthen.config.schema import Config, Tables
from lengthen.core.schedule import Counters
from lengthen.data.open_store import open_store, with_store
from lengthen.data.store import Store
from lengthen.data.stream import StepStream
from lengthen.data.tokenizer import tokenizer_difference
from lengthen.data.tokenizer_files import read_tokenizer
from lengthen.distributed.auto import decided
from lengthen.distributed.device import described
from lengthen.distributed.launch import join_process_group
from lengthen.run import directory as runlog
from lengthen.run.directory import RunPaths
from lengthen.training.changes import ORDER, budget_error, check_branch, going_on
from lengthen.training.fit import with_micro_tokens
from lengthen.training.loop import RunSummary
from lengthen.training.ownership import own_directory
from lengthen.training.run_files import Begun, write_run
from lengthen.training.start import resumed
from lengthen.util.console import say
from lengthen.util.disk import Disk, as_path
from lengthen.util.errors import DataError, SettingError


def branch(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    at: str | None = None,
    data: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    disk: Disk | None = None,
) -> RunSummary:
    """Train a new run in `out` that begins with a checkpoint of `run`, weights and moments kept.

    It is the newest good checkpoint, or the one called `at`; `settings` override those of the run.
    The ledger continues: steps, tokens and budget include the parent's. If `data` (a store of the
    same tokenizer), a full length, a seed or a setting of leftovers is given, a new ledger begins
    and they count from 0; the parent's tokens, which `run.parent_tokens` has, may then be read
    again. Raises what `train` and `resume` raise.

    >>> more = {"budget.tokens": 40_000}
    >>> lengthen.branch("runs/first", "runs/longer", settings=more, quiet=True).tokens > 39_000
    True
    """
    parent, paths = runlog.open_run(as_path("run", run)), RunPaths(as_path("out", out))
    config, anew, notes = plan_branch(parent, settings, data)
    store, disk = open_store(config), disk or Disk()
    config, reasons = decided(config, store)
    check_new_branch(parent, paths, overwrite=overwrite)
    with ExitStack() as stack:
        context = stack.enter_context(join_process_group(config.run))
        start, damaged = load_checkpoint(parent.checkpoints, at, context)
        config, begun = _begun(config, store, parent, start, anew=anew)
        own_directory(stack, paths.root, context, f"branch from {start.path.name}", config)
        if not quiet and context.is_rank_zero:
            say(reasons)
        config, _ = with_micro_tokens(config, store, context)
        if context.is_rank_zero:
            facts = {"device": described(context.device), **store.manifest.validation()}
            write_run(disk, paths, config, store.text_tokenizer(), facts, begun)
        del start, begun  # the files of the one are mapped as long as they live
        loop = resumed(
            stack,
            context,
            paths,
            config,
            store,
            disk,
            overrides=nested(settings),
            notes=[*damaged, *notes, _origin(config, anew=anew)],
            shown=not quiet,
        )
        return loop.run()


def check_new_branch(parent: RunPaths, paths: RunPaths, *, overwrite: bool) -> None:
    """Raise SettingError where no branch of `parent` may be made."""
    runlog.check_new(paths.root, overwrite=overwrite)
    if paths.root.resolve().is_relative_to(parent.root.resolve()):
        raise SettingError("--out", "must be a directory outside RUN", str(paths.root))


def plan_branch(
    parent: RunPaths,
    settings: Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] | None = None,
) -> tuple[Config, bool, list[str]]:
    """Return the settings of a branch, whether a new ledger begins, and notes.

    Raises SettingError for a setting that cannot change, and DataError for another tokenizer.
    """
    old, changes = load_run(parent.config), nested(settings)
    given = flat(changes)
    anew = data is not None or not ORDER.isdisjoint(given)
    again: Tables = {}  # what `train` has decided, and decides again
    if anew or any(name.startswith(("budget.", "optimizer.schedule")) for name in given):
        again["optimizer"] = {"decay_tokens": None}
    if "model.length" in given:
        again |= {"batch": {"micro_tokens": "auto"}, "pacing": {"end": None}}
    config, notes = load(parent.config, merge(again, changes)[0], data=data)
    store = open_store(config)
    config = with_store(config, store)
    check_branch(config, old)
    if part := tokenizer_difference(store.tokenizer(), read_tokenizer(parent.tokenizer).tokenizer):
        rule = f"its tokenizer is not that of the run {parent.root} ({part} differ)"
        raise DataError(f"store {store.path}: {rule}; prepare it with --tokenizer {parent.root}")
    return config, anew, notes


def _begun(
    config: Config, store: Store, parent: RunPaths, start: Checkpoint, *, anew: bool
) -> tuple[Config, Begun]:
    """Return the settings of a branch, and what it has before its first step."""
    if trained_with := recorded(start.state):  # config.toml may have been edited
        check_branch(config, build_recorded(trained_with))
    run: Tables = {"branched_from": f"{parent.root.resolve().name}/{start.path.name}"}
    before, state, log = TrainState.from_state(start.state), dict(start.state), b""
    trained, count = before.counters.tokens, store.sequences(config.model.length)
    stream = StepStream(config.schedule(count), count, reuse_after=config.batch.reuse_after)
    if anew:
        run["parent_tokens"] = trained - before.skipped_tokens + (config.run.parent_tokens or 0)
        before = TrainState(Counters(), stream.start.ledger)
        state |= {**before.state(), "pacing_values": [], "numerics": None}
    elif stream.schedule.step_plan(before.counters) is None:
        rule, hint = f"leaves no step after the {trained} tokens of {start.path.name}", "give more"
        raise budget_error(config, rule, stream.schedule.budget, hint)
    else:
        # The first checkpoint of the branch will have the new settings alone.
        counters = going_on(config.pacing, before.counters, start.state)
        state |= replace(before, counters=counters).state()
        log = parent.metrics.read_bytes()[: log_size(start.state)]
    step = before.counters.step
    return with_overrides(config, {"run": run}), Begun(step, start.tensors, state, log)


def _origin(config: Config, *, anew: bool) -> str:
    """Say where a branch began and what its budget counts."""
    counted = "the parent's ledger goes on, and the budget counts its tokens too"
    if anew:
        parents = f"the parent's {config.run.parent_tokens:,} may be read again"
        counted = f"a new ledger: the budget counts the tokens of this run, {parents}"
    return f"branched from {config.run.branched_from}; {counted}"
