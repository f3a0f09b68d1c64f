"""A run from where it stands to its end: what is due when, signals, and saves."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.manager import Saves
from lengthen.checkpoint.read import State
from lengthen.checkpoint.train_state import Progress
from lengthen.checkpoint.write import nothing
from lengthen.config import load as settings
from lengthen.core.loss_ratio import SKIPS_IN_A_ROW
from lengthen.core.schedule import crossed
from lengthen.distributed.context import is_out_of_memory, is_peer_lost, is_time_out
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
class Session:
    """One process's work on one run: the trainer and the files around it."""

    trainer: Trainer
    paths: RunPaths
    log: MetricsLog | None  # the first rank's
    stop: StopSignal
    line: Line
    saves: Saves
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
            if self.trainer.place.world == 1:
                now = self.trainer.progress.clock.step
                with suppress(StorageError):
                    self.saves.write(now, self.trainer.tensors(), _state(self))
            raise

    def event(self, event: str, **facts: object) -> None:
        """Append an event at the present step."""
        clock = self.trainer.progress.clock
        moment = {"kind": "event", "event": event, "step": clock.step, "tokens": clock.tokens}
        self.write({**moment, **facts})


def carry_out(session: Session) -> Record:
    """Train to the end of the budget, measuring and saving when due; return the summary."""
    began = session.trainer.progress
    try:
        while not _advance(session, began):
            pass
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise _out_of_memory(session) from error
        if is_peer_lost(error):
            raise _peer_lost(session, error) from error
        raise
    session.event("finished")
    return _summary(session)


def _advance(session: Session, began: Progress) -> bool:
    """Measure and save what is due, then train one step; return whether the budget is spent."""
    trainer = session.trainer
    if trainer.schedule.shape(trainer.progress.clock) is not None:
        _observe_when_due(session)
    # Only now: at a greater length not one more row may fit the budget.
    done = trainer.schedule.shape(trainer.progress.clock) is None
    _measure(session, done=done)
    _note_smaller_passes(session)
    _save_when_due(session, done=done)
    if trainer.progress.stop:
        step = trainer.progress.clock.step
        way_on = f"`lengthen resume {session.paths.root}` goes on"
        number = session.stop.number or signal.SIGTERM
        raise StoppedError(number, f"stopped after step {step}, which is saved; {way_on}")
    if done:
        return True
    before = trainer.progress.ledger.pass_number
    record = trainer.step()
    assert record is not None
    _note_smaller_passes(session)
    session.write(record)
    _act_on_nonfinite(session, record)
    if trainer.progress.ledger.pass_number > before:
        trainer.store.check_files()
    session.line.update(record["tokens"], _text(record, began))
    return False


def _note_smaller_passes(session: Session) -> None:
    """Say that memory ran out and what fits; config.toml has it at once, for a resume."""
    trainer = session.trainer
    found, before = trainer.micro_tokens, trainer.config.batch.micro_tokens
    if found == before:
        return
    trainer.config = settings.changed(trainer.config, {"batch": {"micro_tokens": found}})
    session.saves.disk.replace_file(session.paths.config, trainer.config.to_toml().encode())
    session.event("smaller_passes", micro_tokens=found, before=before)
    session.line.say(f"out of memory: batch.micro_tokens is {found} from here on, was {before}")


def _out_of_memory(session: Session) -> MemoryLimitError:
    trainer, root = session.trainer, session.paths.root
    saved = "none" if session.saves.step is None else checkpoint.name_of(session.saves.step)
    at = f"out of memory behind step {trainer.progress.clock.step}, last checkpoint {saved}"
    length, smaller = trainer.config.model.length, trainer.micro_tokens // 2
    if smaller < length:
        return MemoryLimitError(f"{at}; a pass is one row already: choose a smaller model")
    way_on = f"`lengthen resume {root} --batch.micro_tokens {smaller}` goes on from it"
    return MemoryLimitError(f"{at}; {way_on}")


def _peer_lost(session: Session, error: RuntimeError) -> PeerError:
    """Say it, and save nothing: a save is a meeting of all ranks."""
    step, rank = session.trainer.progress.clock.step, session.trainer.place.rank
    at = f"rank {rank} lost another rank behind step {step}; if that one could, it said why"
    if is_time_out(error):
        waited = f"{session.trainer.config.run.timeout_seconds} s (run.timeout_seconds)"
        at = f"rank {rank} waited {waited} for another rank behind step {step}"
    if session.saves.step is None:
        return PeerError(f"{at}; nothing was saved yet: run the command again with --overwrite")
    way_on = f"`lengthen resume {session.paths.root}` goes on from"
    return PeerError(f"{at}; {way_on} {checkpoint.name_of(session.saves.step)}")


def _text(record: Record, began: Progress) -> str:
    seconds = record["seconds"] - began.seconds
    speed = (record["tokens"] - began.clock.tokens) / seconds if seconds else 0.0
    loss = "not finite" if record["loss"] is None else f"{record['loss']:.3f}"
    where = f"step {record['step']}  length {record['length']}  rows {record['rows']}"
    return f"{where}  loss {loss}  {speed:,.0f} tokens/s"


def _measure(session: Session, *, done: bool) -> None:
    trainer, config = session.trainer, session.trainer.config.evaluation
    now = trainer.progress
    if crossed(config.probe_every_steps, now.probed, now.clock.step):
        _write_if_any(session, trainer.probe())
    due = crossed(config.every_steps or 0, now.evaluated.step, now.clock.step)
    due |= crossed(config.every_tokens or 0, now.evaluated.tokens, now.clock.tokens)
    if (due or (done and now.evaluated.step != now.clock.step)) and not trainer.progress.stop:
        _write_if_any(session, trainer.evaluate())


def _observe_when_due(session: Session) -> None:
    """Let an adaptive pacing look; log its growth, and the steps at the length before."""
    before = session.trainer.progress.clock
    if not session.trainer.schedule.observes(before):
        return
    record = session.trainer.observe()
    _write_if_any(session, record)
    if record is None or record["next_length"] == record["length"]:
        return
    held = before.step - (before.grown.since if before.grown else 0)
    session.event("length", length=record["next_length"], held=held)


def _write_if_any(session: Session, record: Record | None) -> None:
    if record is not None:
        session.write(record)


def _act_on_nonfinite(session: Session, record: Record) -> None:
    """Stop, or note the skipped step and go on; the record is in the log already."""
    if record.get("finite", True):
        return
    trainer = session.trainer
    in_a_row = trainer.progress.skipped_in_a_row
    session.event("skipped", in_a_row=in_a_row, skipped_tokens=trainer.progress.skipped_tokens)
    if trainer.config.run.on_nonfinite == "skip" and in_a_row < SKIPS_IN_A_ROW:
        session.line.say(f"step {record['step']} is not finite; skipped, weights untouched")
        return
    place = f"step {record['step']} (length {record['length']}, {record['tokens']} tokens)"
    saved = checkpoint.name_of(session.saves.step) if session.saves.step is not None else "none"
    way_on = "lower optimizer.learning_rate"
    if session.saves.step is not None:
        way_on += ", or resume with --run.on_nonfinite skip"
    raise UnstableError(
        f"loss or gradient of {place} is not finite; weights are untouched, last checkpoint "
        f"{saved}; {way_on}"
    )


def _save_when_due(session: Session, *, done: bool) -> None:
    trainer = session.trainer
    step = trainer.progress.clock.step
    last = done or trainer.progress.stop
    # Step 0 counts as a multiple: a disk too small for a checkpoint shows before any training.
    due = last or crossed(trainer.config.saving.every_steps, step - 1, step)
    # All ranks take note of a save at the same step: when the next one is due.
    if due or trainer.place.world == 1:
        _settle(session, wait=due)
    if not due or session.saves.step == step:
        return
    try:
        name = _save(session, last=last)
    except StorageError as error:
        _note_failure(session, error, last=last)
        name = _save(session, last=True) if last else None
    _note_saved(session, name)


def _settle(session: Session, *, wait: bool) -> None:
    """Take note of what a save in the background has come to."""
    try:
        name = session.saves.settle(wait=wait)
    except StorageError as error:
        _note_failure(session, error, last=False)
    else:
        _note_saved(session, name)


def _save(session: Session, *, last: bool) -> str | None:
    """Save, or begin to; return the name of a checkpoint that is true now."""
    trainer, saves = session.trainer, session.saves
    # The checkpoint counts on the lines so far.
    ahead = nothing if session.log is None else session.log.sync
    what = trainer.progress.clock.step, trainer.tensors(), _state(session), ahead
    if saves.pool is None or last:
        return saves.write(*what)
    saves.begin(*what)
    return None


def _state(session: Session) -> State:
    size = 0 if session.log is None else session.log.size
    return {**session.trainer.state(), "metrics_bytes": size}


def _note_saved(session: Session, name: str | None) -> None:
    if name is None:
        return
    session.failed_saves = 0
    if session.log is None:
        return
    session.event("saved", name=name)
    try:
        session.saves.rotate()
    except (StorageError, OSError) as error:  # the new checkpoint is good all the same
        session.line.say(f"an older checkpoint stays: {error}")


def _note_failure(session: Session, error: StorageError, *, last: bool) -> None:
    """Say it and go on, the first time; raise the second of two in a row."""
    session.failed_saves += 1
    session.line.say(str(error))
    if last:
        return
    if session.failed_saves > 1:
        raise error
    session.event("save_failed", reason=str(error))


def _summary(session: Session) -> Record:
    now, budget = session.trainer.progress, session.trainer.schedule.budget
    return {
        "run": str(session.paths.root),
        "steps": now.clock.step,
        "tokens": now.clock.tokens,
        "short_of_budget": budget - now.clock.tokens,
        "skipped_tokens": now.skipped_tokens,
        "seconds": now.seconds,
    }
