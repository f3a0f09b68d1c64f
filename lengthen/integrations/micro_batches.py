"""The forward and backward passes of a step, watched in the model of another loop.

The gradient that a loop sends into the outputs of its model is what it trains on. In the first
step, before its update, it has to be that of the cross entropy, as we compute it from the logits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from lengthen.integrations.validate import (
    RULE,
    WHOLE,
    BatchTensor,
    Call,
    ExpectedBatch,
    call_of,
    check_gradient,
    check_own_loss,
    is_close,
    outputs_of,
    random_row,
    required_logits,
    summed_loss,
    wide,
    wrong_loss,
)
from lengthen.util.errors import SettingError


@dataclass(frozen=True)
class Forward:
    """One forward pass of the step, and the gradients that came back to its outputs."""

    call: Call
    loss: Tensor | None  # of one element
    logits: Tensor | None  # (rows, length, vocabulary), or flat
    to_loss: list[Tensor] = field(default_factory=list)
    to_logits: list[Tensor] = field(default_factory=list)

    def keep_gradients(self) -> None:
        """Keep the gradients of the backward pass that is to come."""
        for output, kept in ((self.loss, self.to_loss), (self.logits, self.to_logits)):
            if output is not None and output.requires_grad:
                register_multi_grad_hook([output], partial(_append, kept), mode="any")


def _append(kept: list[Tensor], gradient: Tensor | None) -> None:
    if gradient is not None:  # a node with many outputs gives None for one without a use
        kept.append(gradient)


class MicroBatchWatch:
    """Takes the micro-batches of a step, one after the other, from among all calls of a model."""

    def __init__(self, model: nn.Module, vocabulary: int, length: int, count: int) -> None:
        """Watch `model`, whose steps have `count` micro-batches, over all ranks."""
        self._model, self._count = model, count
        self._row = random_row(vocabulary, min(length, 64))
        self._batch: ExpectedBatch | None = None
        self._call: Call | None = None  # of the forward pass that runs
        self._forward: Forward | None = None
        self._equal = True  # whether the micro-batches of this step are
        self._losses: list[Tensor] = []  # of this step's micro-batches, shares of its mean, 0-d
        self._checked: set[bool] = set()  # steps of equal micro-batches, those of unequal ones
        self._own_loss = self._own_loss_checked = False
        # Of the last micro-batch; before the first, as a Trainer calls a model with a row.
        self.call = Call((), {name: BatchTensor(name) for name in self._row}, numbered=False)
        # Before the forward pass, since to compare a batch makes a GPU wait. A compiled model is
        # watched from outside.
        disable: Callable[..., Any] = torch.compiler.disable
        self._hooks = (
            model.register_forward_pre_hook(disable(self._before), with_kwargs=True),
            model.register_forward_hook(disable(self._after)),
        )

    def close(self) -> None:
        """Leave the model alone."""
        for hook in self._hooks:
            hook.remove()

    def expect(self, batch: ExpectedBatch) -> None:
        """Wait for a micro-batch; calls of the model with anything else do not count."""
        self._batch, self._call, self._forward = batch, None, None
        # Means over micro-batches are right while these are equal: the first unequal ones are
        # checked too.
        self._equal = batch.inputs.numel() * self._count == batch.number

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        waits = self._batch is not None and self._forward is None and torch.is_grad_enabled()
        self._call = call_of(args, kwargs, self._batch) if waits and self._batch else None

    def _after(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        call, self._call = self._call, None
        if call is None or self._batch is None:
            return
        self._forward = Forward(call, *outputs_of(output, self._batch.inputs))
        if self._equal in self._checked:
            # All that is left to do is to record: the logits need not be kept until the end.
            self._forward = Forward(call, self._share(self._batch, self._forward), None)
        else:
            self._forward.keep_gradients()

    def finish(self, scale: float) -> None:
        """Count the expected micro-batch as trained; its gradient has to be `scale` times ours.

        Raises SettingError where it was not, or the first step trains on something else.
        """
        batch, forward = self._batch, self._forward
        self._batch = self._forward = None
        if batch is None or forward is None:
            rule = "must be called once with each batch of the dataset, as it is"
            hint = "leave input_ids as they are in compute_loss"
            raise SettingError("model", rule, type(self._model).__name__, hint)
        self.call, share = forward.call, forward.loss
        if self._equal not in self._checked:
            self._own_loss = bool(forward.to_loss)
            self._check(batch, forward, scale)
            share = self._share(batch, forward)
        assert share is not None
        self._losses.append(share)

    @torch.no_grad()
    def _share(self, batch: ExpectedBatch, forward: Forward) -> Tensor:
        """Return what a micro-batch adds to the mean loss of the step, 0-d."""
        if self._own_loss and forward.loss is not None:
            return wide(forward.loss.detach()).reshape(())
        logits = required_logits(forward.logits, self._model)
        return summed_loss(logits, batch.targets) / batch.number

    def step_loss(self) -> Tensor:
        """Return this rank's part of the mean loss of the step, 0-d; the next step begins."""
        total = torch.stack(self._losses).sum()
        self._losses = []
        # A step that is not finite shows nothing: the next one is checked in its place.
        if self._equal not in self._checked and total.isfinite():
            self._checked.add(self._equal)
        return total

    @torch.no_grad()
    def losses(self, rows: Sequence[Mapping[str, Tensor]]) -> list[float]:
        """Return the mean loss of each row, in nats per token, dropout off; one row at a time."""
        model, found = self._model, []
        device, was_training = next(model.parameters()).device, model.training
        model.eval()
        for row in rows:
            batch = {name: value[None].to(device) for name, value in row.items()}
            targets = batch["shift_labels"]
            _, logits = outputs_of(self.call.repeat(model, batch, targets.numel()), targets)
            loss = summed_loss(required_logits(logits, model), targets)
            found.append(float(loss) / targets.numel())
        model.train(was_training)
        return found

    @torch.no_grad()
    def _check(self, batch: ExpectedBatch, forward: Forward, scale: float) -> None:
        logits, weight = required_logits(forward.logits, self._model).detach(), scale / batch.number
        expected = summed_loss(logits, batch.targets) * weight
        if not expected.isfinite():
            return
        if not (forward.to_logits or forward.to_loss):
            rule = f"{RULE}; the first step trained on nothing that the model returned"
            raise SettingError("loss", rule, None, "compute it from the logits or take its own")
        # Sums: a loss may go through more than one backward pass.
        if forward.to_logits:
            check_gradient(torch.stack(forward.to_logits).sum(0), logits, batch.targets, weight)
        if forward.loss is None or not forward.to_loss:
            return
        trained = forward.loss * torch.stack(forward.to_loss).sum(0)
        if self._count > 1 and not forward.call.numbered:
            raise SettingError("loss", f"{RULE}, which the model did not get", None, WHOLE)
        if not is_close(trained.reshape(()), expected):
            raise wrong_loss(float(trained / expected))
        if not self._own_loss_checked:
            self._own_loss_checked = True
            check_own_loss(self._model, forward.call, self._row)
