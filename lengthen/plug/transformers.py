"""Length warmup in a `transformers.Trainer`: one dataset and one callback, the model unedited.

    dataset = LengthenDataset("store", Course(pacing=..., rows=64, budget=100_000_000))
    trainer = Trainer(model, TrainingArguments(...), train_dataset=dataset,
                      callbacks=[LengthenCallback(dataset, "runs/mine")])

The Trainer's own sampler deals the dataset's items out to the ranks, its own resume skips those
that were trained, and what workers read ahead changes nothing.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from lengthen.clock import crossed
from lengthen.errors import CheckpointError, SettingError
from lengthen.evaluate.perplexity import sequences_in
from lengthen.monitor import PROBE_SEQUENCES
from lengthen.plug.course import Moment, Walk
from lengthen.plug.dataset import LengthenDataset, Row
from lengthen.plug.log import RunLog
from lengthen.plug.refusals import check, must_fit, must_take_targets

__all__ = ["LengthenCallback", "LengthenDataset"]


class LengthenCallback(TrainerCallback, ExportableState):
    """Tells the dataset how the Trainer divides a step, records the run, and lets it resume.

    Its state goes into the Trainer's own checkpoint, as `trainer_state.json` has it, and is that
    of the last step that was trained.
    """

    def __init__(
        self, dataset: LengthenDataset, out: str | Path, *, probe_every_steps: int = 10
    ) -> None:
        """Record into the run directory `out`, which `lengthen report` reads.

        Every so many steps (0: never) the first rank evaluates a few full-length sequences on the
        side, dropout off: the one loss that is comparable over the whole warmup.
        """
        self._dataset, self._out, self._probe_every = dataset, out, probe_every_steps
        self._log: RunLog | None = None  # the first rank's, while it trains
        self._heard: list[Tensor] = []  # the losses of this step's passes, 0-d
        self._hook: RemovableHandle | None = None
        self._begin(dataset.steps.start)

    def _begin(self, moment: Moment) -> None:
        self._dataset.begin(moment)
        # A walk of its own: the dataset's is ahead by what is read beforehand.
        self._walk = Walk(self._dataset.steps, moment)
        self._trained = moment

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Refuse arguments that do not do; divide the steps."""
        check(args, self._dataset.number_of_steps)
        self._dataset.divide(args.gradient_accumulation_steps, args.world_size)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **met: Any,
    ) -> None:
        """Refuse a model or collator that do not do; begin a run, or go on with one."""
        check(args, self._dataset.number_of_steps)
        _must_read(self._dataset, met["train_dataloader"])
        must_fit(met["model"], self._dataset.course.length, self._dataset.store.vocabulary)
        must_take_targets(met["model"], self._dataset.first_row())
        saved = self._saved(state) if state.global_step else None
        moment = self._dataset.steps.start
        if saved is not None:
            moment = self._dataset.steps.restored(saved)
        self._begin(moment)
        if self._log is not None:  # a training that failed has left it open
            self._log.close()
        if state.is_world_process_zero:
            store, log = self._dataset.store, saved["log"] if saved else None
            self._log = RunLog(self._out, self._dataset.course, store=store, saved=log)
        # Out of the model itself: once it was not finite, the Trainer's own sum is so for ever.
        self._heard = []
        self._hook = met["model"].register_forward_hook(self._hear)

    def _hear(self, model: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        if model.training:
            self._heard.append(output.loss.detach())

    def _loss(self, world: int) -> float:
        """Return the mean loss of the step that was just trained, over passes and ranks."""
        total = torch.stack(self._heard).sum()
        self._heard = []
        if world > 1:
            dist.all_reduce(total)
        return float(total)

    def _saved(self, state: TrainerState) -> dict[str, Any]:
        kept: Any = state.stateful_callbacks  # by name, once it is read from a checkpoint
        saved: dict[str, Any] = kept.get(type(self).__name__, {}).get("attributes", {})
        step = saved.get("clock", {}).get("step")
        if step != state.global_step:
            rule = f"was saved at step {state.global_step}, with a ledger of step {step}"
            raise CheckpointError(f"checkpoint: {rule}; take one that this callback was in")
        self._dataset.course.must_be(saved["course"])
        if saved["store_id"] != self._dataset.store.id:
            rule = f"the checkpoint was trained on {saved['store_id']}"
            raise SettingError("store", rule, self._dataset.store.id, "give the run its own back")
        return saved

    def state(self) -> dict[str, Any]:
        """Return what a resume needs, as the Trainer's checkpoints have it."""
        attributes = {
            "course": self._dataset.course.state(),
            "store_id": self._dataset.store.id,
            **self._trained.state(),
            "log": self._log.state_dict() if self._log else None,
        }
        return {"args": {}, "attributes": attributes}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **met: Any,
    ) -> None:
        """Record the step that was just trained."""
        logs = logs or {}
        if "loss" not in logs:
            return  # an evaluation's, or the summary at the end
        step, loss = self._walk.at(state.global_step), self._loss(args.world_size)
        self._trained = step.after
        if self._log is not None:
            self._log.step(
                step,
                loss=loss,
                grad_norm=logs["grad_norm"],
                optimizer=met["optimizer"],
                rate=logs["learning_rate"],
            )
            if crossed(self._probe_every, state.global_step - 1, state.global_step):
                self._probe(met["model"], self._log)

    def _probe(self, model: nn.Module, log: RunLog) -> None:
        length, part = self._dataset.course.length, self._dataset.store.valid
        if sequences_in(part, length, length):
            began = time.monotonic()
            loss = mean_loss(model, self._dataset.validation(PROBE_SEQUENCES * length))
            log.probe(loss, side_seconds=time.monotonic() - began)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Record a validation loss."""
        metrics = metrics or {}
        if self._log is not None and "eval_loss" in metrics:
            seconds = metrics.get("eval_runtime")
            self._log.evaluation(metrics["eval_loss"], side_seconds=seconds)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave the save out of the training time."""
        if self._log is not None:
            self._log.mark()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the record; a run that was stopped early may go on another time."""
        if self._hook is not None:
            self._hook.remove()
        if self._log is not None:
            end = state.global_step >= state.max_steps
            (self._log.finish if end else self._log.close)()
            self._log = None


def mean_loss(model: nn.Module, rows: Sequence[Row]) -> float:
    """Return the mean loss of a causal model over rows of one length, dropout off, in nats."""
    device = next(model.parameters()).device
    was_training = model.training
    with torch.no_grad():
        batch = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
        loss = float(model.eval()(**batch).loss)
    model.train(was_training)
    return loss


def _must_read(dataset: LengthenDataset, loader: DataLoader[Any]) -> None:
    if loader.dataset is not dataset:
        raise SettingError("train_dataset", "must be the dataset that the callback was given")
    row = dataset.first_row()
    batch = loader.collate_fn([row, row]) if loader.collate_fn else {}
    if {name: tuple(value.shape) for name, value in batch.items()} != {
        name: (2, *value.shape) for name, value in row.items()
    }:
        rule = "must stack the rows as they are"
        hint = "give Trainer(data_collator=transformers.default_data_collator)"
        raise SettingError("data_collator", rule, type(loader.collate_fn).__name__, hint)
