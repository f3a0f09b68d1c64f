"""Length warmup in a Trainer of Lightning: one data module and one callback, the module unedited.

    data = LengthenDataModule("store", DataPlan(pacing=..., rows=64, budget=100_000_000))
    trainer = Trainer(max_epochs=1, callbacks=[LengthenCallback(data, "runs/mine")])
    trainer.fit(module, datamodule=data)

`training_step` gets (inputs, targets), both int64 of (rows, length), and returns their mean loss.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from lengthen.data.store import Store
from lengthen.data.stream import StepCursor, StreamState, row_range
from lengthen.integrations.data_plan import DataPlan, PlannedSteps, check_store
from lengthen.integrations.dataset import full_length_rows
from lengthen.integrations.host import LIGHTNING, check_processes
from lengthen.integrations.plain import BatchStream
from lengthen.integrations.run_log import RunLog
from lengthen.util.errors import CheckpointError, SettingError

if TYPE_CHECKING or not LIGHTNING.mistake():
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
else:
    Callback = LightningDataModule = LIGHTNING.stand_in()

__all__ = ["LengthenCallback", "LengthenDataModule"]

Batch = tuple[Tensor, Tensor]  # inputs and targets, int64 of (rows, length)

# What a Trainer must have, one of these, and why.
REQUIRED: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("max_epochs", (1,), "the data module holds the whole budget"),
    ("limit_train_batches", (1.0,), "max_steps ends a run between two steps"),
    (
        "precision",
        ("32-true", "64-true", "bf16-mixed", "bf16-true"),
        "an update that a scaler leaves out would count as trained",
    ),
)
PLAIN = ("SingleDeviceStrategy", "DDPStrategy")  # averages gradients of whole models


class LengthenDataModule(LightningDataModule):
    """Every micro-batch of this process, in order; its callback says where a run resumes.

    Lightning fetches one batch ahead from a loader without a length, and loses it at a resume.
    """

    def __init__(self, store: str | Path, plan: DataPlan, *, validation_tokens: int = 100_000):
        """Open the store in a directory; raises DataError where it cannot be used."""
        super().__init__()
        self.store, self.plan = Store.open(store), plan
        self.steps = PlannedSteps(self.store.train, plan)
        self.start: StreamState | None = None  # unknown until the callback meets the Trainer
        self._validation_tokens = validation_tokens

    def train_dataloader(self) -> "Batches":
        """Return the micro-batches that are left of the budget."""
        if self.start is None:
            hint = "give Trainer(callbacks=[LengthenCallback(data, ...)])"
            raise SettingError("callbacks", "must have the data module's own", None, hint)
        # The length is of the whole budget: Lightning counts what was trained before a resume too.
        trainer: Any = self.trainer  # there is one by now
        count = self.plan.number_of_steps() * trainer.accumulate_grad_batches
        return Batches(count, self._micro_batches)

    def _micro_batches(self) -> Iterator[Batch]:
        plan, start = self.plan, self.start
        trainer: Any = self.trainer
        assert start is not None
        count, world_size = trainer.accumulate_grad_batches, trainer.world_size
        rank = trainer.global_rank
        options = {"gradient_accumulation_steps": count, "rank": rank, "world_size": world_size}
        stream = BatchStream(self.store.train, plan, **options)
        stream.load_state_dict(self.steps.state(start))
        for _, parts in stream:
            yield from ((part.inputs, part.targets) for part in parts)

    def val_dataloader(self) -> "Batches":
        """Return the first rows of the validation part, at full length; every process has all."""
        tokens = self._validation_tokens
        inputs, targets = full_length_rows(self.store, self.plan.length, tokens)
        trainer: Any = self.trainer
        processes = trainer.accumulate_grad_batches * trainer.world_size
        each = max(1, self.plan.rows // processes)
        parts = [slice(first, first + each) for first in range(0, len(inputs), each)]
        return Batches(len(parts), lambda: ((inputs[rows], targets[rows]) for rows in parts))


class Batches:
    """What Lightning iterates over and leaves as it is: it has a length, and is no DataLoader."""

    def __init__(self, count: int, batches: Callable[[], Iterator[Batch]]) -> None:
        self._count, self._batches = count, batches

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        return self._batches()


class LengthenCallback(Callback):
    """Weighs every micro-batch by its tokens, records the run, and lets it resume.

    Its state goes into Lightning's own checkpoints and is that of the last step that was trained.
    """

    def __init__(
        self,
        data: LengthenDataModule,
        out: str | Path,
        *,
        validation_loss: str = "val_loss",
        overwrite: bool = False,
    ) -> None:
        """Record into the run directory `out`, as RunLog does.

        `validation_loss` is the name under which the module logs its own, in nats per token.
        """
        self._data, self._out, self._overwrite = data, out, overwrite
        self._validation_loss = validation_loss
        self._saved: dict[str, Any] | None = None
        self._log: RunLog | None = None  # the first process's, while it trains
        data.start = self._trained = data.steps.stream.start

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint; raises SettingError for another plan or store."""
        check_store(state_dict["store_id"], self._data.store.id)
        self._saved = state_dict
        self._data.start = self._trained = self._data.steps.restored(state_dict)

    def on_load_checkpoint(self, _: Any, __: Any, checkpoint: dict[str, Any]) -> None:
        """Open the only epoch again: wherever a run had ended, Lightning took it for done."""
        loop = checkpoint["loops"]["fit_loop"]
        for progress in ("total", "current"):
            loop["epoch_progress"][progress] |= {"processed": 0, "completed": 0}
        loop["epoch_loop.batch_progress"]["is_last_batch"] = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, as Lightning's checkpoints have it."""
        log = self._log.state_dict() if self._log else self._saved and self._saved["log"]
        return {
            "store_id": self._data.store.id,
            **self._data.steps.state(self._trained),
            "log": log,
        }

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Refuse a Trainer that would train on something else."""
        if stage == "fit":
            _check(trainer, pl_module, self._data)

    def on_train_start(self, trainer: "Trainer", _: Any) -> None:
        """Begin a run, or continue one."""
        _check_intervals(trainer)
        self._count = trainer.accumulate_grad_batches
        begun = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if begun != self._trained.counters.step * self._count:
            rule = f"was saved after micro-batch {begun}, with a ledger of step"
            way_out = f"take one of a whole step of {self._count}, that this callback was in"
            raise CheckpointError(f"checkpoint: {rule} {self._trained.counters.step}; {way_out}")
        self._cursor = StepCursor(self._data.steps.stream, self._trained)
        self._losses: list[Tensor] = []  # of this step's micro-batches, shares of its mean, 0-d
        if trainer.is_global_zero:
            saved = self._saved and self._saved["log"]
            given: dict[str, Any] = {"saved": saved, "overwrite": self._overwrite}
            self._log = RunLog(self._out, self._data.plan, store=self._data.store, **given)

    def on_train_batch_start(self, trainer: "Trainer", _: Any, __: Any, batch_idx: int) -> None:
        """Find out what share of its step a micro-batch is."""
        number, self._number = divmod(batch_idx, self._count)
        self._step = self._cursor.at(number + 1)
        plan, rank = self._step.plan, trainer.global_rank
        rows = row_range(plan, rank, trainer.world_size, self._number, self._count)
        self._share = len(rows) / plan.rows

    def on_before_backward(self, trainer: "Trainer", _: Any, loss: Tensor) -> None:
        """Weigh a mean loss, which Lightning has divided by the micro-batches, by its tokens."""
        share = self._share * self._count
        self._losses.append(loss.detach() * share)
        loss.mul_(share * trainer.world_size)  # data parallel averages

    def on_before_optimizer_step(
        self, _: Any, pl_module: "LightningModule", optimizer: Any
    ) -> None:
        """Take the norm before clipping, and the rate before the scheduler's step."""
        gradients = [one.grad for one in pl_module.parameters() if one.grad is not None]
        self._norm, self._rate = get_total_norm(gradients), optimizer.param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: "Trainer", *_: Any) -> None:
        """Record the step that was just trained."""
        if len(self._losses) != self._number + 1:
            raise SettingError("training_step", "must return the mean loss of every micro-batch")
        if self._number < self._count - 1:
            return
        total = torch.stack(self._losses).sum()
        self._losses.clear()
        if trainer.world_size > 1:
            dist.all_reduce(total)
        self._trained = self._step.after
        if self._log is not None:
            given = {"loss": total, "grad_norm": self._norm, "rate": self._rate}
            self._log.step(self._step, optimizer=trainer.optimizers[0], **given)

    def on_validation_end(self, trainer: "Trainer", _: Any) -> None:
        """Record the validation loss that the module logged."""
        loss = trainer.callback_metrics.get(self._validation_loss)
        if self._log is not None and loss is not None:
            self._log.evaluation(loss)

    def on_train_end(self, *_: Any) -> None:
        """Close the record, as that of a run which has ended where its budget is spent."""
        if self._log is not None and self._data.steps.stream.after(self._trained) is None:
            self._log.finish()
        self.on_exception()

    def on_exception(self, *_: Any) -> None:
        """Close the record; the run may resume another time."""
        if self._log is not None:
            self._log.close()
            self._saved, self._log = self.state_dict(), None  # it may be saved afterwards


def _check(trainer: Any, module: Any, data: LengthenDataModule) -> None:
    for name, wanted, why in REQUIRED:
        value, words = getattr(trainer, name), [repr(one) for one in wanted]
        if repr(value) not in words:  # 1 is one batch, and 1.0 all of them
            raise SettingError(name, f"must be {' or '.join(words)}, as {why}", value)
    if (strategy := type(trainer.strategy).__name__) not in PLAIN:
        rule = "must be data parallel alone: sharded models are not supported yet"
        raise SettingError("strategy", rule, strategy, "strategy='ddp'")
    if not module.automatic_optimization:
        raise SettingError("automatic_optimization", "must be True: it divides the loss", False)
    if trainer.datamodule is not data:
        raise SettingError("datamodule", "must be the one that the callback was given")
    check_processes(trainer.world_size, "Trainer(devices=...) has their number")


def _check_intervals(trainer: Any) -> None:
    for config in trainer.lr_scheduler_configs:
        if config.interval != "step":
            rule = "must be 'step', as all steps are one epoch"
            raise SettingError("lr_scheduler.interval", rule, config.interval)
    every, count = trainer.val_check_batch, trainer.accumulate_grad_batches
    if every not in (None, float("inf")) and every % count and every < trainer.num_training_batches:
        rule = f"must be a multiple of accumulate_grad_batches ({count}), or its checkpoints"
        raise SettingError("val_check_interval", f"{rule} would lie in the middle of a step", every)
