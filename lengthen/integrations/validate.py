"""How a model of another loop is called, and whether it trains on the cross entropy of its targets.

The gradient of a loss decides, not its value alone: an untrained model has much the same loss
whatever its targets.
"""

from collections.abc import Mapping, Sequence
from math import hypot, isclose, isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthen.util.errors import SettingError

IGNORED = -100  # a target that counts in no loss
NUMBER = "num_items_in_batch"  # the number of targets in a step, as a Trainer hands it on
TARGETS = ("labels", "shift_labels")  # names of a row's targets
# Of a gradient by the logits, summed over absolute values: rounding is below 1e-6 of it, the
# smallest z-loss in use (1e-5) adds 1e-4 at a vocabulary of 50,000.
GRADIENT_ROUNDING = 3e-5
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-5}  # of a loss, as a share
LOW_PRECISION_ROUNDING = 1e-2  # of one in lower precision
RULE = "must be the cross entropy of shift_labels over num_items_in_batch"
LONE = "leave out label smoothing, z-losses and router losses; take shift_labels as they are"
WHOLE = f"hand {NUMBER} on to the model; over several processes multiply by their number"


class ExpectedBatch(NamedTuple):
    """What a micro-batch has to be."""

    inputs: Tensor  # (rows, length) int64, on the CPU
    targets: Tensor  # the same; IGNORED counts nothing
    number: int  # targets of the whole step, over all micro-batches and ranks


class BatchTensor(NamedTuple):
    """An argument that is a tensor of the batch."""

    name: str


class Call(NamedTuple):
    """How a loop calls its model; an argument that is not of the batch is as it was, or None."""

    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    numbered: bool  # whether it got the number of targets

    def repeat(self, model: nn.Module, batch: Mapping[str, Tensor], number: int) -> Any:
        """Call a model so with another batch; each of its tensors is (rows, length) int64."""
        args = [_of_batch(one, batch) for one in self.args]
        kwargs = {name: _of_batch(one, batch) for name, one in self.kwargs.items()}
        if self.numbered:
            kwargs[NUMBER] = torch.tensor(number, device="cpu")
        return model(*args, **kwargs)


def call_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: ExpectedBatch) -> Call | None:
    """Return how a model was called with the expected batch; None for any other call."""
    places = tuple(_kept(value, batch) for value in args)
    words = {
        word: BatchTensor(word) if word in TARGETS else _kept(value, batch)
        for word, value in kwargs.items()
        if word != NUMBER
    }
    named = {one.name for one in (*places, *words.values()) if isinstance(one, BatchTensor)}
    if "input_ids" not in named:
        return None
    known = {word: one for word, one in words.items() if one is not None}
    return Call(places, known, kwargs.get(NUMBER) is not None)


def _kept(value: object, batch: ExpectedBatch) -> object:
    """Return what makes an argument again for another batch; None where nothing does."""
    if not isinstance(value, Tensor):
        # A number may be one of the batch, such as its length.
        return value if isinstance(value, bool | float | str) else None
    if value.shape != batch.inputs.shape:
        return None
    value = value.detach().cpu()
    if torch.equal(value, batch.inputs):
        return BatchTensor("input_ids")
    if torch.equal(value, batch.targets):
        return BatchTensor("shift_labels")
    first = value[0, 0]
    return first if bool((value == first).all()) else None  # a mask: the same everywhere


def _of_batch(kept: object, batch: Mapping[str, Tensor]) -> object:
    inputs = batch["input_ids"]
    if isinstance(kept, Tensor):
        return kept.to(inputs.device).expand(inputs.shape)
    return batch[kept.name] if isinstance(kept, BatchTensor) else kept


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


def required_logits(logits: Tensor | None, model: nn.Module) -> Tensor:
    """Return the logits; raises SettingError where there are none."""
    if logits is None:
        rule = "must return the logits of every token, by which its loss is checked"
        hint = "return them beside the loss, without a fused loss kernel"
        raise SettingError("model", rule, type(model).__name__, hint)
    return logits


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of cross entropies, in nats, 0-d, as `wide`; row by row, to hold little."""
    return torch.stack(
        [
            functional.cross_entropy(
                wide(row), target.to(row.device), reduction="sum", ignore_index=IGNORED
            )
            for row, target in zip(by_row(logits, targets), targets, strict=True)
        ]
    ).sum()


def wide(values: Tensor) -> Tensor:
    """Return values in float32, or in float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def by_row(logits: Tensor, targets: Tensor) -> Tensor:
    """Return logits, or what is like them, as (rows, length, vocabulary)."""
    return logits.reshape(*targets.shape, -1)


def is_close(loss: Tensor, ours: Tensor) -> bool:
    """Return whether a loss is ours but for the rounding of its own precision; both are 0-d."""
    tolerance = ROUNDING.get(loss.dtype, LOW_PRECISION_ROUNDING)
    return bool(torch.isclose(loss.to(ours.dtype), ours, rtol=tolerance, atol=1e-12))


def wrong_loss(factor: float = 1.0) -> SettingError:
    """Return the error for a step whose loss was another one, or so many times the right."""
    if abs(factor - 1) < 0.1:
        return SettingError("loss", f"{RULE}; this step trained on another one", None, LONE)
    return SettingError("loss", f"{RULE}; this step had {factor:.4g} times it", None, WHOLE)


def check_logged_loss(loss: float, trained: float, step: int) -> None:
    """Raise SettingError where more was trained on in a step than `loss`, which is recorded.

    A step that is not finite shows nothing.
    """
    if not (isfinite(loss) and isfinite(trained)):
        return
    if not isclose(loss, trained, rel_tol=2e-5, abs_tol=1e-4):
        rule = f"{RULE}, which was {loss:.6g} in step {step}; the Trainer trained on"
        raise SettingError("loss", rule, trained, LONE)


def check_gradient(gradient: Tensor, logits: Tensor, targets: Tensor, weight: float) -> None:
    """Raise SettingError unless `gradient` is that of `weight` times `summed_loss` by the logits.

    In numbers (p - 1[target]) * weight, in the precision of the logits.
    """
    far = size = theirs2 = along = ours2 = 0.0
    both = by_row(gradient, targets), by_row(logits, targets)
    for row, z, target in zip(*both, targets, strict=True):
        ours = gradient_of(z, target.to(z.device), weight).to(row.dtype).float()
        theirs = row.float()
        far += float((theirs - ours).abs().sum())
        size += float(ours.abs().sum())
        theirs2 += float(theirs.square().sum())
        along += float((theirs * ours).sum())
        ours2 += float(ours.square().sum())
    if far <= GRADIENT_ROUNDING * size:
        return
    if ours2 and theirs2 - along**2 / ours2 <= 1e-5 * theirs2:
        raise wrong_loss(along / ours2)
    raise wrong_loss()


def gradient_of(logits: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Return the gradient of `weight` times the cross entropy by logits (length, vocabulary)."""
    kept = targets != IGNORED
    p = logits.float().softmax(-1)
    p[kept, targets[kept]] -= 1
    return p * kept[:, None] * weight


def random_row(vocabulary: int, length: int) -> dict[str, Tensor]:
    """Return a batch of one random row, whose targets follow from nothing."""
    generator = torch.Generator().manual_seed(0)
    size = (2, 1, length)
    inputs, targets = torch.randint(vocabulary, size, generator=generator, device="cpu")
    return {"input_ids": inputs, "labels": targets, "shift_labels": targets}


def check_own_loss(model: nn.Module, call: Call, row: Mapping[str, Tensor]) -> None:
    """Try the own loss of a model on a row: value and gradient have to be those of our own.

    By all parameters, for a term that does not go through the logits is to be seen as well; and by
    the gradient, for an untrained loss is much the same whatever the targets. Raises SettingError.
    """
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in row.items()}
    was_training = model.training
    model.eval()
    with torch.enable_grad():
        # Two passes: a compiled model goes backward once through each.
        _, ours, exact = _loss_and_ours(model, call, batch)
        right = _gradients(model, ours)
        loss, ours, _ = _loss_and_ours(model, call, batch)
        same = loss is not None and is_close(loss.detach().reshape(()), ours.detach())
        extra = _gradients(model, loss.float().reshape(()) - ours) if loss is not None else []
    model.train(was_training)
    if same and _adds_nothing(right, extra, exact=exact):
        return
    rule = f"must compute the cross entropy of shift_labels over {NUMBER}, and nothing else"
    raise SettingError("model", rule, type(model).__name__, LONE)


def _loss_and_ours(
    model: nn.Module, call: Call, batch: Mapping[str, Tensor]
) -> tuple[Tensor | None, Tensor, bool]:
    """Return a model's loss and our own, 0-d, and whether it computes in float32."""
    targets = batch["shift_labels"]
    number = targets.numel() * (2 if call.numbered else 1)  # twice: half of what a mean would be
    loss, logits = outputs_of(call.repeat(model, batch, number), targets)
    logits = required_logits(logits, model)
    if not logits.requires_grad:
        rule = "must return the logits that its loss comes from, with their gradient"
        raise SettingError("model", rule, type(model).__name__, "return them without detach()")
    return loss, summed_loss(logits, targets) / number, logits.dtype == torch.float32


def _gradients(model: nn.Module, loss: Tensor) -> list[Tensor | None]:
    parameters = [one for one in model.parameters() if one.requires_grad]
    return list(torch.autograd.grad(loss, parameters, allow_unused=True))


def _adds_nothing(
    right: Sequence[Tensor | None], extra: Sequence[Tensor | None], *, exact: bool
) -> bool:
    """Return whether gradients are nothing beside the right ones, by each parameter."""
    sizes = [0.0 if one is None else float(one.float().norm()) for one in right]
    share, floor = (1e-3, 1e-6) if exact else (2e-2, 1e-4)
    least = floor * hypot(*sizes)
    return all(
        one is None or float(one.float().norm()) <= share * size + least
        for one, size in zip(extra, sizes, strict=True)
    )
