"""Train a run to the end of its budget: what is evaluated, logged and saved when, and signals."""

import math
import shlex
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from lengthen.checkpoint.manager import CheckpointManager
from lengthen.checkpoint.read import State, Tensors
from lengthen.core.loss_ratio import SKIPS_IN_A_ROW
from lengthen.core.schedule import crossed
from lengthen.distributed.launch import is_peer_lost, is_time_out
from lengthen.distributed.memory import is_out_of_memory
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import JsonLines, read_metrics
from lengthen.run.records import EvalRecord, Event, Record, StepRecord, to_json
from lengthen.training.time_left import Rest, TimeLeft
from lengthen.training.trainer import Trainer
from lengthen.util import faults
from lengthen.util.console import Line
from lengthen.util.errors import (
    MemoryLimitError,
    PeerError,
    StoppedError,
    StorageError,
    UnstableError,
)
from lengthen.util.signals import StopSignal
from lengthen.util.tables import Printable, Table, facts


@dataclass(frozen=True, repr=False)
class RunSummary(Printable):
    """What a run came to; its text has a line for each."""

    run: Path  # its directory
    steps: int
    tokens: int  # trained
    length: int  # of the last step
    full_length: int  # L
    short_of_budget: int  # tokens of the budget that are not one more row
    skipped_tokens: int  # of steps that were not finite
    seconds: float  # of training
    validation_loss: float | None  # nats; NaN: not finite; None: not measured, or not on rank 0

    @property
    def parts(self) -> list[Table | str]:
        """What is printed."""
        loss = "not measured" if self.validation_loss is None else f"{self.validation_loss:.4f}"
        lines = {
            "run": str(self.run),
            "steps": f"{self.steps:,}",
            "tokens": f"{self.tokens:,}",
            "last length": f"{self.length:,} of {self.full_length:,}",
            "short of budget": f"{self.short_of_budget:,}",
            "skipped tokens": f"{self.skipped_tokens:,}",
            "seconds": f"{self.seconds:.1f}",
            "validation loss": loss.replace("nan", "not finite"),
        }
        command = "report" if loss == "nan" else "sample"
        return [facts(lines.items()), f"next: lengthen {command} {shlex.quote(str(self.run))}"]


class TrainingLoop:
    """One rank's training of one run; rank 0 alone has the log."""

    def __init__(
        self,
        trainer: Trainer,
        paths: RunPaths,
        log: JsonLines | None,
        stop: StopSignal,
        line: Line,
        checkpoints: CheckpointManager,
    ) -> None:
        self._trainer, self._paths, self._log = trainer, paths, log
        self._stop, self._line, self._checkpoints = stop, line, checkpoints
        self._root = shlex.quote(str(paths.root))  # as a command has it
        self._began = trainer.train_state
        self._left = TimeLeft({"run": Rest(trainer.config, trainer.schedule, self._began.counters)})
        self._micro_tokens = trainer.micro_tokens  # as config.toml has it
        self._failed_saves = 0  # in a row
        self._evaluation: EvalRecord | None = None  # the last one of this process
        self._step: StepRecord | None = None  # likewise
        self.on_record: Callable[[Record], object] = lambda _: None  # once it is in the log
        if faults.asked():
            trainer.module.register_forward_hook(_Faults(trainer))

    def run(self) -> RunSummary:
        """Train to the end of the budget, evaluating and saving when due; return the summary.

        Raises MemoryLimitError, PeerError, StorageError, UnstableError and, after saving,
        StoppedError.
        """
        try:
            while not self._advance():
                pass
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise self._out_of_memory() from error
            if is_peer_lost(error):
                raise self._peer_lost(error) from error
            raise
        self.event("finished")
        return self._summary()

    def event(self, name: str, /, **facts: object) -> None:
        """Log an event at the present step."""
        counters = self._trainer.train_state.counters
        self._write(Event(name, counters.step, counters.tokens, facts))

    def note(self, text: str) -> None:
        """Print a line, and log it as an event."""
        self._line.say(text)
        self.event("note", text=text)

    def _advance(self) -> bool:
        """Evaluate and save what is due, then train one step; return whether the run is done."""
        trainer = self._trainer
        if trainer.schedule.step_plan(trainer.train_state.counters) is not None:
            self._observe_when_due()
        # Only now: at a greater length not one more row may fit the budget.
        done = trainer.schedule.step_plan(trainer.train_state.counters) is None
        self._evaluate_when_due(done=done)
        self._record_micro_tokens()
        self._save_when_due(last=done or trainer.train_state.stop)
        if trainer.train_state.stop:
            way_out = f"`lengthen resume {self._root}` continues"
            message = f"stopped after step {trainer.train_state.counters.step}, which is saved"
            # Another rank's signal has no number here.
            raise StoppedError(self._stop.number or signal.SIGTERM, f"{message}; {way_out}")
        if done:
            return True
        before = trainer.train_state
        record = trainer.step()
        assert record is not None
        self._step = record
        self._record_micro_tokens()
        self._write(record)
        self._act_on_nonfinite(record)
        now = trainer.train_state
        if now.ledger.epoch > before.ledger.epoch:
            trainer.store.check_files()
        self._left.learn("run", record)
        self._line.update(now.counters.tokens, self._progress(record), self._left.seconds)
        return False

    def _write(self, record: Record | None) -> None:
        """Log a record, on rank 0; where the log cannot grow, save and give up."""
        if self._log is None or record is None:
            return
        try:
            self._log.write(to_json(record))
        except StorageError:
            # The weights are more than their line in the log, and may still find room. Of several
            # ranks the others know nothing of it, and all of them take part in a save.
            if self._trainer.context.world_size == 1:
                with suppress(StorageError):
                    self._checkpoints.write(*self._whole_state())
            raise
        self.on_record(record)

    def _observe_when_due(self) -> None:
        """Let an adaptive pacing observe the loss; log its growth."""
        if not self._trainer.schedule.observes(self._trainer.train_state.counters):
            return
        record = self._trainer.observe()
        self._write(record)
        if record is not None and record.grew:
            facts = {"length": record.next_length, "steps_at_length": record.steps_at_length}
            self.event("length", **facts)

    def _evaluate_when_due(self, *, done: bool) -> None:
        trainer, config = self._trainer, self._trainer.config.evaluation
        now = trainer.train_state
        if crossed(config.probe_every_steps, now.probed, now.counters.step):
            self._write(trainer.probe())
        due = crossed(config.every_steps or 0, now.evaluated.step, now.counters.step)
        due |= crossed(config.every_tokens or 0, now.evaluated.tokens, now.counters.tokens)
        due |= done and now.evaluated.step != now.counters.step
        if due and not trainer.train_state.stop:
            record = trainer.evaluate()
            self._evaluation = record or self._evaluation
            self._write(record)

    def _save_when_due(self, *, last: bool) -> None:
        trainer, step = self._trainer, self._trainer.train_state.counters.step
        # Step 0 counts as a multiple: a disk too small for a checkpoint shows before any training.
        due = last or crossed(trainer.config.saving.every_steps, step - 1, step)
        # All ranks take note of a save at the same step: when the next one is due.
        if due or trainer.context.world_size == 1:
            self._finish_save(wait=due)
        if not due or self._checkpoints.step == step:
            return
        try:
            name = self._save(last=last)
        except StorageError as error:
            self._note_failed_save(error, last=last)
            name = self._save(last=True) if last else None
        self._note_saved(name)

    def _finish_save(self, *, wait: bool) -> None:
        """Take note of what became of a save in the background."""
        try:
            name = self._checkpoints.finish(wait=wait)
        except StorageError as error:
            self._note_failed_save(error, last=False)
        else:
            self._note_saved(name)

    def _save(self, *, last: bool) -> str | None:
        """Save, or begin to; return the name of a checkpoint that exists now."""
        # A checkpoint counts on the lines that the log has so far.
        before = None if self._log is None else self._log.sync
        return self._checkpoints.write(*self._whole_state(), before, wait=last)

    def _whole_state(self) -> tuple[int, dict[str, Tensors], State]:
        trainer = self._trainer
        state = {**trainer.state_dict(), "metrics_bytes": self._log.size if self._log else 0}
        return trainer.train_state.counters.step, trainer.tensors(), state

    def _note_saved(self, name: str | None) -> None:
        if name is None:
            return
        self._failed_saves = 0
        if self._log is None:
            return
        self.event("saved", name=name)
        try:
            self._checkpoints.delete_old()
        except (StorageError, OSError) as error:  # the new checkpoint is good all the same
            self._line.say(f"an older checkpoint stays: {error}")

    def _note_failed_save(self, error: StorageError, *, last: bool) -> None:
        """Print it and continue, the first time; raise the second of two in a row."""
        self._failed_saves += 1
        self._line.say(str(error))
        if last:
            return
        if self._failed_saves > 1:
            raise error
        self.event("save_failed", reason=str(error))

    def _record_micro_tokens(self) -> None:
        """Where memory ran out, write what fits into config.toml at once, for a resume."""
        now, before = self._trainer.micro_tokens, self._micro_tokens
        if now == before:
            return
        self._micro_tokens = now
        text = self._trainer.config.to_toml()
        self._checkpoints.disk.replace_file(self._paths.config, text.encode())
        self.event("micro_tokens_lowered", micro_tokens=now, before=before)
        self._line.say(f"out of memory: batch.micro_tokens is {now} from here on, was {before}")

    def _act_on_nonfinite(self, record: StepRecord) -> None:
        """Stop, or note the skipped step and continue; the record is in the log already."""
        if record.finite:
            return
        trainer = self._trainer
        in_a_row = trainer.train_state.skipped_in_a_row
        tokens = trainer.train_state.skipped_tokens
        diverged = trainer.config.run.on_nonfinite == "stop" or in_a_row >= SKIPS_IN_A_ROW
        self.event("skipped", in_a_row=in_a_row, skipped_tokens=tokens, diverged=diverged)
        if not diverged:
            self._line.say(f"step {record.step} is not finite; skipped, weights untouched")
            return
        where = f"step {record.step} (length {record.length}, {record.tokens} tokens)"
        again = f"resume from {self._checkpoints.last_name}"
        if self._checkpoints.step is None:
            again = "nothing was saved yet: train again, with --overwrite and"
        way_out = f"{again} with a lower --optimizer.learning_rate"
        if trainer.config.run.on_nonfinite == "skip":
            where += f", and of the {in_a_row - 1} before,"
        else:
            way_out += " or with --run.on_nonfinite skip"
        raise UnstableError(
            f"loss or gradient of {where} is not finite; weights are untouched; {way_out}"
        )

    def _out_of_memory(self) -> MemoryLimitError:
        trainer, last = self._trainer, self._checkpoints.last_name
        at = f"out of memory after step {trainer.train_state.counters.step}, last checkpoint {last}"
        smaller = trainer.micro_tokens // 2
        if smaller < trainer.config.model.length:
            return MemoryLimitError(f"{at}; a micro-batch is one row already: take a smaller model")
        command = f"lengthen resume {self._root} --batch.micro_tokens {smaller}"
        return MemoryLimitError(f"{at}; `{command}` continues from it")

    def _peer_lost(self, error: RuntimeError) -> PeerError:
        """Save nothing: all ranks would take part in a save."""
        step, rank = self._trainer.train_state.counters.step, self._trainer.context.rank
        at = f"rank {rank} lost another rank after step {step}, whose own message may say why"
        if is_time_out(error):
            waited = f"{self._trainer.config.run.timeout_seconds} s (run.timeout_seconds)"
            at = f"rank {rank} waited {waited} for another rank after step {step}"
        if self._checkpoints.step is None:
            return PeerError(f"{at}; nothing was saved yet: run the command again with --overwrite")
        command = f"lengthen resume {self._root}"
        return PeerError(f"{at}; `{command}` continues from {self._checkpoints.last_name}")

    def _progress(self, record: StepRecord) -> str:
        now, began = self._trainer.train_state, self._began
        seconds = now.seconds - began.seconds
        speed = (now.counters.tokens - began.counters.tokens) / seconds if seconds else 0.0
        loss = "not finite" if record.loss is None else f"{record.loss:.3f}"
        where = f"step {record.step}  length {record.length}  rows {record.rows}"
        return f"{where}  loss {loss}  {speed:,.0f} tokens/s"

    def _summary(self) -> RunSummary:
        now, schedule = self._trainer.train_state, self._trainer.schedule
        step, evaluation = self._step, self._evaluation
        if self._log and not (step and evaluation):  # then an earlier process came to the end
            logged = read_metrics(self._paths.metrics)
            step = step or next(reversed(logged.steps), None)
            evaluation = evaluation or next(reversed(logged.evaluations), None)
        length = step.length if step else None  # since then an adaptive pacing may have grown
        loss = evaluation.loss if evaluation else None
        return RunSummary(
            run=self._paths.root,
            steps=now.counters.step,
            tokens=now.counters.tokens,
            length=length or schedule.length(replace(now.counters, step=now.counters.step - 1)),
            full_length=schedule.full_length,
            short_of_budget=schedule.budget - now.counters.tokens,
            skipped_tokens=now.skipped_tokens,
            seconds=now.seconds,
            validation_loss=math.nan if self._log and evaluation and loss is None else loss,
        )


class _Faults:
    """A forward hook that injects faults: "eval" always, "step" once in each attempt at a step."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._attempt: tuple[int, int] | None = None

    def __call__(self, _module: nn.Module, _inputs: object, loss: Tensor) -> Tensor:
        attempt = self._trainer.train_state.counters.step, self._trainer.micro_tokens
        if not loss.requires_grad:
            return loss * math.nan if faults.inject("eval") else loss
        if attempt == self._attempt:  # a later micro-batch
            return loss
        self._attempt = attempt
        return loss * math.nan if faults.inject("step") else loss
