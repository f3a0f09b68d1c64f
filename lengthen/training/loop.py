"""A run from where it stands to its end: what is due when, signals, and saves."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.manager import CheckpointManager
from lengthen.checkpoint.read import State
from lengthen.checkpoint.train_state import TrainState
from lengthen.checkpoint.write import nothing
from lengthen.config import load as settings
from lengthen.core.loss_ratio import SKIPS_IN_A_ROW
from lengthen.core.schedule import crossed
from lengthen.distributed.launch import is_peer_lost, is_time_out
from lengthen.distributed.memory import is_out_of_memory
from lengthen.run.directory import MetricsLog, Record, RunPaths
from lengthen.training.trainer import Trainer
from lengthen.util.console import Line
from lengthen.util.errors import (
    MemoryLimitError,
    PeerError,
    StoppedError,
    StorageError,
    UnstableError,
)


@dataclass
class StopSignal:
    """Whether a signal asked for the end; the second one ends the process at once."""

    number: int = 0

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.number != 0

    @contextmanager
    def listening(self) -> Iterator["StopSignal"]:
        """Turn SIGINT, SIGTERM and SIGHUP into a flag while the block runs.

        One that this process was told to ignore stays ignored: that is what `nohup` does.
        """
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heeded = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._heard) for number in heeded}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number


@dataclass
class RunContext:
    """One process's work on one run: the trainer and the files around it."""

    trainer: Trainer
    paths: RunPaths
    log: MetricsLog | None  # the first rank's
    stop: StopSignal
    line: Line
    saves: CheckpointManager
    failed_saves: int = 0  # in a row

    def write(self, record: Record) -> None:
        """Append a record, on the first rank; where the log cannot grow, save and give up."""
        if self.log is None:
            return
        try:
            self.log.write(record)
        except StorageError:
            # The weights are more than the line that tells of them, and may still find room. The
            # other ranks know nothing of it, and a save is a meeting of all.
            if self.trainer.context.world_size == 1:
                now = self.trainer.train_state.counters.step
                with suppress(StorageError):
                    self.saves.write(now, self.trainer.tensors(), _state(self))
            raise

    def event(self, event: str, **facts: object) -> None:
        """Append an event at the present step."""
        counters = self.trainer.train_state.counters
        moment = {"kind": "event", "event": event, "step": counters.step, "tokens": counters.tokens}
        self.write({**moment, **facts})


def carry_out(run: RunContext) -> Record:
    """Train to the end of the budget, measuring and saving when due; return the summary."""
    began = run.trainer.train_state
    try:
        while not _advance(run, began):
            pass
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise _out_of_memory(run) from error
        if is_peer_lost(error):
            raise _peer_lost(run, error) from error
        raise
    run.event("finished")
    return _summary(run)


def _advance(run: RunContext, began: TrainState) -> bool:
    """Measure and save what is due, then train one step; return whether the budget is spent."""
    trainer = run.trainer
    if trainer.schedule.step_plan(trainer.train_state.counters) is not None:
        _observe_when_due(run)
    # Only now: at a greater length not one more row may fit the budget.
    done = trainer.schedule.step_plan(trainer.train_state.counters) is None
    _measure(run, done=done)
    _note_lower_micro_tokens(run)
    _save_when_due(run, done=done)
    if trainer.train_state.stop:
        step = trainer.train_state.counters.step
        way_on = f"`lengthen resume {run.paths.root}` goes on"
        number = run.stop.number or signal.SIGTERM
        raise StoppedError(number, f"stopped after step {step}, which is saved; {way_on}")
    if done:
        return True
    before = trainer.train_state.ledger.epoch
    record = trainer.step()
    assert record is not None
    _note_lower_micro_tokens(run)
    run.write(record)
    _act_on_nonfinite(run, record)
    if trainer.train_state.ledger.epoch > before:
        trainer.store.must_be_whole()
    run.line.update(record["tokens"], _text(record, began))
    return False


def _note_lower_micro_tokens(run: RunContext) -> None:
    """Say that memory ran out and what fits; config.toml has it at once, for a resume."""
    trainer = run.trainer
    found, before = trainer.micro_tokens, trainer.config.batch.micro_tokens
    if found == before:
        return
    trainer.config = settings.with_overrides(trainer.config, {"batch": {"micro_tokens": found}})
    run.saves.disk.replace_file(run.paths.config, trainer.config.to_toml().encode())
    run.event("micro_tokens_lowered", micro_tokens=found, before=before)
    run.line.say(f"out of memory: batch.micro_tokens is {found} from here on, was {before}")


def _out_of_memory(run: RunContext) -> MemoryLimitError:
    trainer, root = run.trainer, run.paths.root
    saved = "none" if run.saves.step is None else checkpoint.name_of(run.saves.step)
    at = f"out of memory behind step {trainer.train_state.counters.step}, last checkpoint {saved}"
    length, smaller = trainer.config.model.length, trainer.micro_tokens // 2
    if smaller < length:
        return MemoryLimitError(f"{at}; a pass is one row already: choose a smaller model")
    way_on = f"`lengthen resume {root} --batch.micro_tokens {smaller}` goes on from it"
    return MemoryLimitError(f"{at}; {way_on}")


def _peer_lost(run: RunContext, error: RuntimeError) -> PeerError:
    """Say it, and save nothing: a save is a meeting of all ranks."""
    step, rank = run.trainer.train_state.counters.step, run.trainer.context.rank
    at = f"rank {rank} lost another rank behind step {step}; if that one could, it said why"
    if is_time_out(error):
        waited = f"{run.trainer.config.run.timeout_seconds} s (run.timeout_seconds)"
        at = f"rank {rank} waited {waited} for another rank behind step {step}"
    if run.saves.step is None:
        return PeerError(f"{at}; nothing was saved yet: run the command again with --overwrite")
    way_on = f"`lengthen resume {run.paths.root}` goes on from"
    return PeerError(f"{at}; {way_on} {checkpoint.name_of(run.saves.step)}")


def _text(record: Record, began: TrainState) -> str:
    seconds = record["seconds"] - began.seconds
    speed = (record["tokens"] - began.counters.tokens) / seconds if seconds else 0.0
    loss = "not finite" if record["loss"] is None else f"{record['loss']:.3f}"
    where = f"step {record['step']}  length {record['length']}  rows {record['rows']}"
    return f"{where}  loss {loss}  {speed:,.0f} tokens/s"


def _measure(run: RunContext, *, done: bool) -> None:
    trainer, config = run.trainer, run.trainer.config.evaluation
    now = trainer.train_state
    if crossed(config.probe_every_steps, now.probed, now.counters.step):
        _write_if_any(run, trainer.probe())
    due = crossed(config.every_steps or 0, now.evaluated.step, now.counters.step)
    due |= crossed(config.every_tokens or 0, now.evaluated.tokens, now.counters.tokens)
    if (due or (done and now.evaluated.step != now.counters.step)) and not trainer.train_state.stop:
        _write_if_any(run, trainer.evaluate())


def _observe_when_due(run: RunContext) -> None:
    """Let an adaptive pacing look; log its growth, and the steps at the length before."""
    before = run.trainer.train_state.counters
    if not run.trainer.schedule.observes(before):
        return
    record = run.trainer.observe()
    _write_if_any(run, record)
    if record is None or record["next_length"] == record["length"]:
        return
    held = before.step - (before.grown.since if before.grown else 0)
    run.event("length", length=record["next_length"], held=held)


def _write_if_any(run: RunContext, record: Record | None) -> None:
    if record is not None:
        run.write(record)


def _act_on_nonfinite(run: RunContext, record: Record) -> None:
    """Stop, or note the skipped step and go on; the record is in the log already."""
    if record.get("finite", True):
        return
    trainer = run.trainer
    in_a_row = trainer.train_state.skipped_in_a_row
    run.event("skipped", in_a_row=in_a_row, skipped_tokens=trainer.train_state.skipped_tokens)
    if trainer.config.run.on_nonfinite == "skip" and in_a_row < SKIPS_IN_A_ROW:
        run.line.say(f"step {record['step']} is not finite; skipped, weights untouched")
        return
    context = f"step {record['step']} (length {record['length']}, {record['tokens']} tokens)"
    saved = checkpoint.name_of(run.saves.step) if run.saves.step is not None else "none"
    way_on = "lower optimizer.learning_rate"
    if run.saves.step is not None:
        way_on += ", or resume with --run.on_nonfinite skip"
    raise UnstableError(
        f"loss or gradient of {context} is not finite; weights are untouched, last checkpoint "
        f"{saved}; {way_on}"
    )


def _save_when_due(run: RunContext, *, done: bool) -> None:
    trainer = run.trainer
    step = trainer.train_state.counters.step
    last = done or trainer.train_state.stop
    # Step 0 counts as a multiple: a disk too small for a checkpoint shows before any training.
    due = last or crossed(trainer.config.saving.every_steps, step - 1, step)
    # All ranks take note of a save at the same step: when the next one is due.
    if due or trainer.context.world_size == 1:
        _settle(run, wait=due)
    if not due or run.saves.step == step:
        return
    try:
        name = _save(run, last=last)
    except StorageError as error:
        _note_failure(run, error, last=last)
        name = _save(run, last=True) if last else None
    _note_saved(run, name)


def _settle(run: RunContext, *, wait: bool) -> None:
    """Take note of what a save in the background has come to."""
    try:
        name = run.saves.settle(wait=wait)
    except StorageError as error:
        _note_failure(run, error, last=False)
    else:
        _note_saved(run, name)


def _save(run: RunContext, *, last: bool) -> str | None:
    """Save, or begin to; return the name of a checkpoint that is true now."""
    trainer, saves = run.trainer, run.saves
    # The checkpoint counts on the lines so far.
    ahead = nothing if run.log is None else run.log.sync
    what = trainer.train_state.counters.step, trainer.tensors(), _state(run), ahead
    if saves.pool is None or last:
        return saves.write(*what)
    saves.begin(*what)
    return None


def _state(run: RunContext) -> State:
    size = 0 if run.log is None else run.log.size
    return {**run.trainer.state_dict(), "metrics_bytes": size}


def _note_saved(run: RunContext, name: str | None) -> None:
    if name is None:
        return
    run.failed_saves = 0
    if run.log is None:
        return
    run.event("saved", name=name)
    try:
        run.saves.rotate()
    except (StorageError, OSError) as error:  # the new checkpoint is good all the same
        run.line.say(f"an older checkpoint stays: {error}")


def _note_failure(run: RunContext, error: StorageError, *, last: bool) -> None:
    """Say it and go on, the first time; raise the second of two in a row."""
    run.failed_saves += 1
    run.line.say(str(error))
    if last:
        return
    if run.failed_saves > 1:
        raise error
    run.event("save_failed", reason=str(error))


def _summary(run: RunContext) -> Record:
    now, budget = run.trainer.train_state, run.trainer.schedule.budget
    return {
        "run": str(run.paths.root),
        "steps": now.counters.step,
        "tokens": now.counters.tokens,
        "short_of_budget": budget - now.counters.tokens,
        "skipped_tokens": now.skipped_tokens,
        "seconds": now.seconds,
    }
