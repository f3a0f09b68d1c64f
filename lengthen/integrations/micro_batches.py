"""The passes of a step, watched in the model: which are the step's own, and what they train on.

A loop of somebody else computes its loss where it likes. What it trains on is the gradient that its
backward pass sends into the outputs of the model. The first step is judged by that, before its
update: it has to be the gradient of the cross entropy, as we compute it from the same logits.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from lengthen.integrations.calls import Batch, Call, call_of, must_have, outputs_of
from lengthen.integrations.validate import (
    RULE,
    WHOLE,
    must_be_slope,
    must_take_targets,
    near,
    other_loss,
    row_of_chance,
    summed,
)
from lengthen.util.errors import SettingError

UNCOMPILED: Callable[..., Any] = torch.compiler.disable


@dataclass(frozen=True)
class Forward:
    """One pass of the step, as the model made it, and the gradients that came back to it."""

    call: Call
    loss: Tensor | None  # of one element
    logits: Tensor | None  # (rows, length, vocabulary), or flat
    to_loss: list[Tensor] = field(default_factory=list)
    to_logits: list[Tensor] = field(default_factory=list)

    def keep_gradients(self) -> None:
        """Keep the gradients of the backward pass that is to come."""
        for output, kept in ((self.loss, self.to_loss), (self.logits, self.to_logits)):
            if output is not None and output.requires_grad:
                # Of a node with many outputs, one that nothing was computed from gets None.
                keep = partial(_append, kept)
                register_multi_grad_hook([output], keep, mode="any")


def _append(kept: list[Tensor], gradient: Tensor | None) -> None:
    if gradient is not None:
        kept.append(gradient)


class Passes:
    """Takes the passes of a step, one after the other, from among all calls of a model."""

    def __init__(self, model: nn.Module, vocabulary: int, length: int, parts: int) -> None:
        """Watch `model`, whose steps have `parts` passes, over all ranks."""
        self._model, self._parts = model, parts
        self._row = row_of_chance(vocabulary, min(length, 64))
        self._batch: Batch | None = None
        self._forward: Forward | None = None
        self._equal = True  # are the passes of this step?
        self._losses: list[Tensor] = []  # of this step's passes, shares of its mean, 0-d
        self._judged: set[bool] = set()  # of steps of equal passes, and of those of unequal ones
        self._own = self._tried = False
        self.call = Call((), {}, numbered=False)  # of the last pass
        watch = UNCOMPILED(self._watch)  # a compiled model is watched from outside
        self._hook = model.register_forward_hook(watch, with_kwargs=True)

    def close(self) -> None:
        """Leave the model alone."""
        self._hook.remove()

    def expect(self, batch: Batch) -> None:
        """Say which pass comes next; calls of the model that are not it are nobody's."""
        self._batch, self._forward = batch, None
        # Means over passes are right while these are equal: the first unequal ones are judged too.
        self._equal = batch.inputs.numel() * self._parts == batch.number

    def _watch(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self._batch is None or self._forward is not None or not torch.is_grad_enabled():
            return
        call = call_of(args, kwargs, self._batch)
        if call is None:
            return
        self._forward = Forward(call, *outputs_of(output, self._batch.inputs))
        if self._equal in self._judged:
            # All that is left to do is to record: the logits need not be kept until the end.
            self._forward = Forward(call, self._share(self._batch, self._forward), None)
        else:
            self._forward.keep_gradients()

    def end(self, scale: float) -> None:
        """Take the expected pass as made; its gradient has to be `scale` times that of its share.

        Raises SettingError where it was not made, or the first step trains on something else.
        """
        batch, forward = self._batch, self._forward
        self._batch = self._forward = None
        if batch is None or forward is None:
            rule = "must be called once with each batch of the dataset, as it is"
            hint = "leave input_ids as they are in compute_loss"
            raise SettingError("model", rule, type(self._model).__name__, hint)
        self.call, share = forward.call, forward.loss
        if self._equal not in self._judged:
            self._own = bool(forward.to_loss)
            self._judge(batch, forward, scale)
            share = self._share(batch, forward)
        assert share is not None
        self._losses.append(share)

    @torch.no_grad()
    def _share(self, batch: Batch, forward: Forward) -> Tensor:
        """Return what a pass adds to the mean loss of the step, 0-d."""
        if self._own and forward.loss is not None:
            return forward.loss.detach().float().reshape(())
        return summed(must_have(forward.logits, self._model), batch.targets) / batch.number

    def take(self) -> Tensor:
        """Return this rank's part of the mean loss of the step, 0-d; the next step begins."""
        total = torch.stack(self._losses).sum()
        self._losses = []
        # A step that is not finite shows nothing: the next one is looked at in its place.
        if self._equal not in self._judged and total.isfinite():
            self._judged.add(self._equal)
        return total

    @torch.no_grad()
    def _judge(self, batch: Batch, forward: Forward, scale: float) -> None:
        logits, weight = must_have(forward.logits, self._model).detach(), scale / batch.number
        expected = summed(logits, batch.targets) * weight
        if not expected.isfinite():
            return
        if not (forward.to_logits or forward.to_loss):
            rule = f"{RULE}; the first step trained on nothing that the model returned"
            raise SettingError("loss", rule, None, "compute it from the logits or take its own")
        # Sums: a loss may go through more than one backward pass.
        if forward.to_logits:
            must_be_slope(torch.stack(forward.to_logits).sum(0), logits, batch.targets, weight)
        if forward.loss is not None and forward.to_loss:
            trained = forward.loss * torch.stack(forward.to_loss).sum(0)
            self._judge_own(forward, trained, expected)

    def _judge_own(self, forward: Forward, trained: Tensor, expected: Tensor) -> None:
        if self._parts > 1 and not forward.call.numbered:
            raise SettingError("loss", f"{RULE}, which the model was not told", None, WHOLE)
        if not near(trained.reshape(()), expected):
            raise other_loss(float(trained / expected))
        if not self._tried:
            self._tried = True
            must_take_targets(self._model, forward.call, self._row)
