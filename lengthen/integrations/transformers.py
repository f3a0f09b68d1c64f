"""Length warmup in a `transformers.Trainer`: one dataset and one callback, the model unedited.

    dataset = LengthenDataset("store", DataPlan(pacing=..., rows=64, budget=100_000_000))
    trainer = Trainer(model, TrainingArguments(...), train_dataset=dataset,
                      callbacks=[LengthenCallback(dataset, "runs/mine")])

The Trainer's own sampler deals the dataset's items out to the ranks, its own resume skips those
that were trained, and what workers prefetch changes nothing.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from lengthen.core.loss_ratio import PROBE_SEQUENCES
from lengthen.core.schedule import crossed
from lengthen.data.stream import StepCursor, StreamState
from lengthen.evaluation.loss import sequences_in
from lengthen.integrations.arguments import check_arguments, check_dataset, check_model
from lengthen.integrations.data_plan import check_store
from lengthen.integrations.dataset import LengthenDataset, rows_of_rank
from lengthen.integrations.host import TRANSFORMERS
from lengthen.integrations.micro_batches import MicroBatchWatch
from lengthen.integrations.run_log import RunLog
from lengthen.integrations.validate import (
    check_logged_loss,
)
from lengthen.util.errors import CheckpointError, SettingError

if TYPE_CHECKING or not TRANSFORMERS.mistake():
    from transformers.trainer_callback import ExportableState, TrainerCallback
else:
    TrainerCallback, ExportableState = TRANSFORMERS.stand_in(), object

__all__ = ["LengthenCallback", "LengthenDataset"]


class LengthenCallback(TrainerCallback, ExportableState):
    """Gives the dataset the Trainer's way to divide a step, records the run, and lets it resume.

    Its state goes into the Trainer's own checkpoint, as `trainer_state.json` has it, and is that
    of the last step that was trained.
    """

    def __init__(
        self,
        dataset: LengthenDataset,
        out: str | Path,
        *,
        probe_every_steps: int = 10,
        overwrite: bool = False,
    ) -> None:
        """Record into the run directory `out`, which `lengthen report` reads, as RunLog does.

        Every so many steps (0: never) the first rank evaluates a few full-length sequences on the
        side, dropout off: the one loss that is comparable over the whole warmup.
        """
        self._dataset, self._out, self._probe_every = dataset, out, probe_every_steps
        self._overwrite = overwrite
        self._log: RunLog | None = None  # the first rank's, while it trains
        self._watching: MicroBatchWatch | None = None  # every rank's, while it trains
        self._number = 0  # of the step's micro-batches, from 0
        # Unrecorded losses, with the tokens and seconds that they took.
        self._evaluations: list[tuple[float, int | None, float | None]] = []
        self._unlogged: float | None = None  # the mean loss of a step that is to be recorded
        self._begin(dataset.steps.stream.start)

    def _begin(self, start: StreamState) -> None:
        self._dataset.start_at(start)
        # A cursor of its own: the dataset's is ahead by what was prefetched.
        self._cursor = StepCursor(self._dataset.steps.stream, start)
        self._trained = start

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Refuse arguments that will not do; divide the steps."""
        check_arguments(args, self._dataset.number_of_steps)
        self._dataset.divide(args.gradient_accumulation_steps, args.world_size)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Refuse a model or collator that will not do; begin a run, or continue one."""
        check_arguments(args, self._dataset.number_of_steps)
        check_dataset(self._dataset, given["train_dataloader"])
        plan, store = self._dataset.plan, self._dataset.store
        check_model(given["model"], plan.length, store.vocabulary)
        saved = self._saved(state) if state.global_step else None
        steps = self._dataset.steps
        self._begin(steps.restored(saved) if saved else steps.stream.start)
        self._close()  # what a training that failed has left open
        if state.is_world_process_zero:
            log = saved["log"] if saved else None
            self._log = RunLog(self._out, plan, store=store, saved=log, overwrite=self._overwrite)
        count = args.gradient_accumulation_steps * args.world_size
        self._watching = MicroBatchWatch(given["model"], store.vocabulary, plan.length, count)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the first micro-batch of the step."""
        self._check_logged()
        self._number = 0
        self._expect(args, state)

    def on_substep_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Count the micro-batch as trained, and wait for the next one of the step."""
        self._finish(args, given["optimizer"])
        self._number += 1
        self._expect(args, state)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Count the last micro-batch, and take the loss of the step over all ranks."""
        self._finish(args, given["optimizer"])
        total = self._watch.step_loss()
        if args.world_size > 1:
            dist.all_reduce(total)
        self._unlogged = float(total)

    @property
    def _watch(self) -> MicroBatchWatch:
        assert self._watching is not None  # between the begin and the end of a training
        return self._watching

    def _expect(self, args: Any, state: Any) -> None:
        step = self._cursor.at(state.global_step + 1)
        self._watch.expect(self._dataset.batch(step, self._number, args.process_index))

    def _finish(self, args: Any, optimizer: Any) -> None:
        scaler = getattr(optimizer, "scaler", None)  # of float16, by Accelerate
        try:
            self._watch.finish(args.world_size * (scaler.get_scale() if scaler else 1.0))
        except SettingError:
            self._close()
            raise

    def _check_logged(self) -> None:
        """Raise SettingError where the last step was trained, and its line never came."""
        if self._unlogged is not None:
            self._close()
            rule = "must call Trainer.log after every step, with its loss and grad_norm"
            raise SettingError("log", rule, None, "leave control.should_log and logs as they are")

    def _saved(self, state: Any) -> dict[str, Any]:
        kept: Any = state.stateful_callbacks  # by name, once it is read from a checkpoint
        saved: dict[str, Any] = kept.get(type(self).__name__, {}).get("attributes", {})
        step = saved.get("counters", {}).get("step")
        if step != state.global_step:
            rule = f"was saved at step {state.global_step}, with a ledger of step {step}"
            raise CheckpointError(f"checkpoint: {rule}; take one that this callback was in")
        check_store(saved["store_id"], self._dataset.store.id)
        return saved

    def state(self) -> dict[str, Any]:
        """Return what a resume needs, as the Trainer's checkpoints have it."""
        attributes = {
            "store_id": self._dataset.store.id,
            **self._dataset.steps.state(self._trained),
            "log": self._log.state_dict() if self._log else None,
        }
        return {"args": {}, "attributes": attributes}

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record the step that was just trained."""
        loss, logs = self._unlogged, given["logs"] or {}
        if loss is None or not {"loss", "grad_norm", "learning_rate"} <= logs.keys():
            # An evaluation's, the summary at the end, or a line of somebody else's: the Trainer
            # takes any for the line of the step, which is still to come.
            control.should_log |= loss is not None
            return
        try:
            check_logged_loss(loss, logs["loss"], state.global_step)
        except SettingError:
            self._close()
            raise
        self._unlogged = None
        step = self._cursor.at(state.global_step)
        self._trained = step.after
        if self._log is not None:
            self._log.step(
                step,
                loss=loss,
                grad_norm=logs["grad_norm"],
                optimizer=given["optimizer"],
                rate=logs["learning_rate"],
            )
            self._record_evaluations()
            if crossed(self._probe_every, state.global_step - 1, state.global_step):
                self._probe(self._log)

    def _probe(self, log: RunLog) -> None:
        length, part = self._dataset.plan.length, self._dataset.store.valid
        if sequences_in(part, length, length):
            began = time.monotonic()
            rows = self._dataset.validation(PROBE_SEQUENCES * length)
            loss = sum(self._watch.losses(rows)) / len(rows)
            seconds = time.monotonic() - began
            log.probe(loss, side_tokens=len(rows) * length, side_seconds=seconds)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record a validation loss."""
        metrics = given["metrics"] or {}
        if self._watching is None or "eval_loss" not in metrics:
            return
        loss, seconds = metrics["eval_loss"], metrics.get("eval_runtime")
        rows = given["eval_dataloader"].dataset
        # The Trainer fills the last round of its processes with rows that it has had.
        if args.world_size > 1 and len(rows) % (args.world_size * args.eval_batch_size):
            began = time.monotonic()
            mine = self._watch.losses(rows_of_rank(rows, args))
            loss = _mean_over_ranks(mine, len(rows), args.device)
            seconds = (seconds or 0.0) + time.monotonic() - began
        # A dataset of the user's own may be long to go through once more.
        tokens = sum(len(row["input_ids"]) for row in rows) if isinstance(rows, list) else None
        self._evaluations.append((loss, tokens, seconds))
        if self._unlogged is None:
            self._record_evaluations()

    def _record_evaluations(self) -> None:
        """Record what was evaluated since the last step, after whose line it belongs."""
        for loss, tokens, seconds in self._evaluations:
            if self._log is not None:
                self._log.evaluation(loss, side_tokens=tokens, side_seconds=seconds)
        self._evaluations.clear()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the save out of the training time."""
        if self._log is not None:
            self._log.mark()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the record; a run that was stopped early may resume another time."""
        end = state.global_step >= state.max_steps
        if self._log is not None and end and self._unlogged is None:
            self._log.finish()
        self._close()

    def _close(self) -> None:
        if self._watching is not None:
            self._watching.close()
        if self._log is not None:
            self._log.close()
        self._watching = self._log = self._unlogged = None


def _mean_over_ranks(mine: Iterable[float], count: int, device: torch.device) -> float:
    # On the device: a backend for GPUs takes no other tensors.
    total = torch.tensor(sum(mine), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total) / count
