"""The passes of a step, watched in the model: which are the step's own, and what they train on.

A loop of somebody else computes its loss where it likes. What it trains on is the gradient that its
backward pass sends into the outputs of the model. The first step is judged by that, before its
update: it has to be the gradient of the cross entropy, as we compute it from the same logits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isclose, isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn import functional

from lengthen.errors import SettingError

IGNORED = -100  # a target that counts in no loss
NUMBER = "num_items_in_batch"  # the number of targets in a step, as a Trainer hands it on
UNCOMPILED: Callable[..., Any] = torch.compiler.disable
NAMES = ("input_ids", "labels", "shift_labels")  # of the tensors of a row

# Of a gradient by the logits, summed over absolute values: rounding is below 1e-6 of it, the
# smallest z-loss in use (1e-5) adds 1e-4 at a vocabulary of 50,000.
ROUNDING_OF_LOGITS = 3e-5
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-5}  # of a loss, as a share
ROUNDING_OF_LESS = 1e-2  # of one in lower precision
RULE = "must be the cross entropy of shift_labels over num_items_in_batch"
LONE = "leave out label smoothing, z-losses and router losses; take shift_labels as they are"
WHOLE = f"hand {NUMBER} on to the model; over several processes multiply by their number"


class Batch(NamedTuple):
    """What a pass has to be."""

    inputs: Tensor  # (rows, length) int64, on the CPU
    targets: Tensor  # the same; IGNORED counts nothing
    number: int  # targets of the whole step, over all passes and ranks


class Call(NamedTuple):
    """How a loop calls its model: names of a row's tensors, by place and by keyword."""

    places: tuple[str | None, ...]
    words: Mapping[str, str]
    numbered: bool  # is it told the number of targets?

    def on(self, model: nn.Module, batch: Mapping[str, Tensor], number: int) -> Any:
        """Call a model so; each of `batch` is (rows, length) int64."""
        places = [None if name is None else batch[name] for name in self.places]
        words = {word: batch[name] for word, name in self.words.items()}
        told = {NUMBER: torch.tensor(number)} if self.numbered else {}
        return model(*places, **words, **told)


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
        self._losses: list[Tensor] = []  # of this step's passes, shares of its mean, 0-d
        self._own = self._judged = self._tried = False
        self.call = Call((), {}, numbered=False)  # of the last pass
        watch = UNCOMPILED(self._watch)  # a compiled model is watched from outside
        self._hook = model.register_forward_hook(watch, with_kwargs=True)

    def close(self) -> None:
        """Leave the model alone."""
        self._hook.remove()

    def expect(self, batch: Batch) -> None:
        """Say which pass comes next; calls of the model that are not it are nobody's."""
        self._batch, self._forward = batch, None

    def _watch(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self._batch is None or self._forward is not None or not torch.is_grad_enabled():
            return
        call = call_of(args, kwargs, self._batch)
        if call is None:
            return
        self._forward = Forward(call, *outputs_of(output, self._batch.inputs))
        if self._judged:
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
        if not self._judged:
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
        self._judged = self._judged or bool(total.isfinite())
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
        if forward.to_logits:
            must_be_slope(forward.to_logits[0], logits, batch.targets, weight)
        if forward.loss is not None and forward.to_loss:
            self._judge_own(forward, forward.loss * forward.to_loss[0], expected)

    def _judge_own(self, forward: Forward, trained: Tensor, expected: Tensor) -> None:
        if self._parts > 1 and not forward.call.numbered:
            raise SettingError("loss", f"{RULE}, which the model was not told", None, WHOLE)
        if not near(trained.reshape(()), expected):
            raise other_loss(float(trained / expected))
        if not self._tried:
            self._tried = True
            must_take_targets(self._model, forward.call, self._row)


def call_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: Batch) -> Call | None:
    """Return how a model was called with the expected batch; None for any other call."""
    places = tuple(_name_of(value, batch) for value in args)
    words = {word: _name_of(value, batch) for word, value in kwargs.items()}
    if "input_ids" not in (*places, *words.values()):
        return None
    named = {word: word if word in NAMES else name for word, name in words.items() if name}
    return Call(places, named, kwargs.get(NUMBER) is not None)


def _name_of(value: object, batch: Batch) -> str | None:
    if not isinstance(value, Tensor) or value.shape != batch.inputs.shape:
        return None
    value = value.detach().cpu()
    if torch.equal(value, batch.inputs):
        return "input_ids"
    return "shift_labels" if torch.equal(value, batch.targets) else None


def outputs_of(output: Any, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the loss and the logits of every token in a model's output, as they are, if any.

    It is a mapping, an object with attributes, a tuple, or the logits alone.
    """
    if isinstance(output, Mapping):
        values = [output.get("loss"), output.get("logits")]
    elif isinstance(output, tuple | list):
        values = list(output)
    else:
        values = [getattr(output, "loss", None), getattr(output, "logits", output)]
    tensors = [one for one in values if isinstance(one, Tensor) and one.is_floating_point()]
    loss = next((one for one in tensors if one.numel() == 1), None)
    many = (one for one in tensors if one.dim() > 1 and one.shape[:-1].numel() == inputs.numel())
    return loss, next(many, None)


def must_have(logits: Tensor | None, model: nn.Module) -> Tensor:
    """Return the logits; raises SettingError where there are none."""
    if logits is None:
        rule = "must return the logits of every token, by which its loss is judged"
        hint = "return them beside the loss, without a fused loss kernel"
        raise SettingError("model", rule, type(model).__name__, hint)
    return logits


def summed(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of cross entropies, in nats, 0-d, in float32; row by row, to hold little."""
    return torch.stack(
        [
            functional.cross_entropy(
                row.float(), target.to(row.device), reduction="sum", ignore_index=IGNORED
            )
            for row, target in zip(by_row(logits, targets), targets, strict=True)
        ]
    ).sum()


def by_row(logits: Tensor, targets: Tensor) -> Tensor:
    """Return logits, or what is like them, as (rows, length, vocabulary)."""
    return logits.reshape(*targets.shape, -1)


def near(loss: Tensor, ours: Tensor) -> bool:
    """Say whether a loss is ours but for the rounding of its own precision; both are 0-d."""
    tolerance = ROUNDING.get(loss.dtype, ROUNDING_OF_LESS)
    return bool(torch.isclose(loss.float(), ours, rtol=tolerance, atol=1e-12))


def other_loss(factor: float = 1.0) -> SettingError:
    """Return the error for a first step whose loss was another one, or so many times the right."""
    if abs(factor - 1) < 0.1:
        return SettingError("loss", f"{RULE}; the first step trained on another one", None, LONE)
    return SettingError("loss", f"{RULE}; the first step had {factor:.4g} times it", None, WHOLE)


def must_be_all(loss: float, trained: float) -> bool:
    """Say whether a step shows that no more was trained on than `loss`, which is recorded.

    A step that is not finite shows nothing. Raises SettingError for another term.
    """
    if not (isfinite(loss) and isfinite(trained)):
        return False
    if isclose(loss, trained, rel_tol=2e-5, abs_tol=1e-4):
        return True
    rule = f"{RULE}, which was {loss:.6g} in the first step; the Trainer trained on"
    raise SettingError("loss", rule, trained, LONE)


def must_be_slope(slope: Tensor, logits: Tensor, targets: Tensor, weight: float) -> None:
    """Raise SettingError unless `slope` is the gradient of `weight` times `summed` by the logits.

    In numbers (p - 1[target]) * weight, in the precision of the logits.
    """
    far = size = 0.0
    products = torch.zeros(3, dtype=torch.float64)  # theirs * theirs, theirs * ours, ours * ours
    both = by_row(slope, targets), by_row(logits, targets)
    for row, z, target in zip(*both, targets, strict=True):
        ours = slope_of(z, target.to(z.device), weight).to(row.dtype).double()
        theirs = row.double()
        far += float((theirs - ours).abs().sum())
        size += float(ours.abs().sum())
        pairs = (theirs, theirs), (theirs, ours), (ours, ours)
        products += torch.tensor([float((one * other).sum()) for one, other in pairs])
    if far <= ROUNDING_OF_LOGITS * size:
        return
    theirs2, along, ours2 = products.tolist()
    if ours2 and theirs2 - along**2 / ours2 <= 1e-5 * theirs2:
        raise other_loss(along / ours2)
    raise other_loss()


def slope_of(logits: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Return the gradient of `weight` times the cross entropy by logits (length, vocabulary)."""
    kept = targets != IGNORED
    p = logits.float().softmax(-1)
    p[kept, targets[kept]] -= 1
    return p * kept[:, None] * weight


def row_of_chance(vocabulary: int, length: int) -> dict[str, Tensor]:
    """Return a batch of one row whose targets follow from nothing."""
    chance = torch.Generator().manual_seed(0)
    inputs, targets = torch.randint(vocabulary, (2, 1, length), generator=chance)
    return {"input_ids": inputs, "labels": targets, "shift_labels": targets}


def must_take_targets(model: nn.Module, call: Call, row: Mapping[str, Tensor]) -> None:
    """Try the own loss of a model on a row: value and gradient have to be those of our own.

    By all parameters, for a term that does not go through the logits is to be seen as well; and by
    the gradient, for an untrained loss is much the same whatever the targets. Raises SettingError.
    """
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in row.items()}
    targets, was_training = batch["shift_labels"], model.training
    number = targets.numel() * (2 if call.numbered else 1)  # twice: half of what a mean would be
    with torch.enable_grad():
        loss, logits = outputs_of(call.on(model.eval(), batch, number), targets)
        model.train(was_training)
        logits = must_have(logits, model)
        ours = summed(logits, targets) / number
        if loss is not None and near(loss.detach().reshape(()), ours.detach()):
            more = loss.float().reshape(()) - ours
            if _adds_nothing(model, ours, more, exact=logits.dtype == torch.float32):
                return
    rule = f"must compute the cross entropy of shift_labels over {NUMBER}, and nothing else"
    raise SettingError("model", rule, type(model).__name__, LONE)


def _adds_nothing(model: nn.Module, ours: Tensor, more: Tensor, *, exact: bool) -> bool:
    """Say whether the gradient of `more` is nothing beside that of `ours`, by each parameter."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    right = torch.autograd.grad(ours, parameters, retain_graph=True, allow_unused=True)
    extra = torch.autograd.grad(more, parameters, allow_unused=True)
    sizes = [0.0 if one is None else float(one.float().norm()) for one in right]
    share, floor = (1e-3, 1e-6) if exact else (2e-2, 1e-4)
    least = floor * float(torch.tensor(sizes).norm())
    return all(
        one is None or float(one.float().norm()) <= share * size + least
        for one, size in zip(extra, sizes, strict=True)
    )
