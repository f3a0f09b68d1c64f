"""Length warmup in a `transformers.Trainer`: one dataset and one callback, the model unedited.

    dataset = LengthenDataset("store", Course(pacing=..., rows=64, budget=100_000_000))
    trainer = Trainer(model, TrainingArguments(...), train_dataset=dataset,
                      callbacks=[LengthenCallback(dataset, "runs/mine")])

An item of the dataset is what one forward pass trains on, and its number says which: step, pass and
rank. So the Trainer's own sampler deals items out to the ranks, its own resume skips those that
were trained, and what workers read ahead changes nothing.
"""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from lengthen.clock import crossed
from lengthen.corpus.store import Store
from lengthen.errors import CheckpointError, SettingError
from lengthen.evaluate.perplexity import sequences_in
from lengthen.monitor import PROBE_SEQUENCES
from lengthen.plug.course import Course, Moment, Step, Steps, Walk
from lengthen.plug.log import RunLog
from lengthen.plug.refusals import check, must_fit, must_take_targets

IGNORED = -100  # a label that counts in no loss

Row = dict[str, Tensor]  # input_ids, labels, shift_labels: (length,) int64


class LengthenDataset(Dataset[Row]):
    """Every pass of every step of a course over a token store, in order."""

    def __init__(self, store: str | Path, course: Course) -> None:
        """Open the store in a directory; raises DataError where it cannot be used."""
        self.store, self.course = Store.open(store), course
        self.steps = Steps(self.store.train, course)
        self._passes, self._world = 1, 0  # unknown until the callback meets the Trainer
        self.begin(self.steps.start)

    def divide(self, passes: int, world: int) -> None:
        """Cut every step into `passes` for each of `world` ranks."""
        self._passes, self._world = passes, world

    def begin(self, moment: Moment) -> None:
        """Read from `moment` on; the steps before it are not asked for again."""
        self._start, self._walk = moment, Walk(self.steps, moment)

    @cached_property
    def number_of_steps(self) -> int:
        """How many steps the budget has."""
        return self.course.number_of_steps()

    def __len__(self) -> int:
        """Return how many items the budget has."""
        return self.number_of_steps * self._passes * max(1, self._world)

    def __getitems__(self, items: Sequence[int]) -> list[Row]:
        """Return the rows of one item; torch asks for items by lists, whose length is 1 here."""
        if not self._world:
            hint = "give Trainer(callbacks=[LengthenCallback(dataset, ...)])"
            raise SettingError("callbacks", "must have the dataset's own", None, hint)
        (item,) = items
        step, number = divmod(item, self._passes * self._world)
        # The Trainer deals items out in turns: to all ranks for one pass, then for the next one.
        which, rank = divmod(number, self._world)
        return self._rows(self._walk.at(step + 1), rank * self._passes + which)

    def _rows(self, step: Step, number: int) -> list[Row]:
        inputs, targets, _, share = self.steps.part(step, number, self._passes * self._world)
        if share:
            return rows_of(inputs, targets)
        # A blank row stands in where a rank has none: it must meet its peers, and weigh nothing.
        ignored = torch.full_like(targets, IGNORED)
        return [{"input_ids": inputs[0], "labels": ignored[0], "shift_labels": ignored[0]}]

    def first_row(self) -> Row:
        """Return the first row of the first step."""
        step = self.steps.following(self.steps.start)
        assert step is not None
        inputs, targets, _, _ = self.steps.part(step, 0, 1)
        return rows_of(inputs, targets)[0]

    def validation(self, tokens: int = 100_000) -> list[Row]:
        """Return about `tokens` of the validation part as full-length rows, for `eval_dataset`."""
        part, length = self.store.valid, self.course.length
        count = sequences_in(part, length, tokens)
        if not count:
            rule = f"must have a validation part of at least {length + 1} tokens"
            raise SettingError("store", rule, len(part), "prepare it with a larger --valid")
        stream = torch.from_numpy(part[: count * length + 1].astype("int64"))
        return rows_of(stream[:-1].view(count, length), stream[1:].view(count, length))

    def rates(self, optimizer: Optimizer) -> LambdaLR:
        """Return the token clock's rates, for the Trainer's `optimizers=(optimizer, rates)`."""
        return self.course.rates(optimizer)

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker that is started, not forked, the tokens go as the place where they lie.
        return _opened, (self.store.path, self.course, self._passes, self._world, self._start)


def _opened(store: Path, course: Course, passes: int, world: int, start: Moment) -> LengthenDataset:
    dataset = LengthenDataset(store, course)
    dataset.divide(passes, world)
    dataset.begin(start)
    return dataset


def rows_of(inputs: Tensor, targets: Tensor) -> list[Row]:
    """Return (rows, length) inputs and targets as rows for a causal model of Transformers.

    Its own shift would give one target less than tokens; `shift_labels` are taken as they are, and
    without `labels` no loss would be computed.
    """
    pairs = zip(inputs, targets, strict=True)
    return [{"input_ids": row, "labels": row, "shift_labels": after} for row, after in pairs]


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
        if state.is_world_process_zero:
            store, log = self._dataset.store, saved["log"] if saved else None
            self._log = RunLog(self._out, self._dataset.course, store=store, saved=log)

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
        step = self._walk.at(state.global_step)
        self._trained = step.after
        if self._log is not None:
            self._log.step(
                step,
                loss=logs["loss"],
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
