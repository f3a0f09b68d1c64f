"""What a loss has to be, judged by its gradient: the cross entropy of a step, and nothing else.

Not by its value alone, for an untrained model has much the same loss whatever its targets.
"""

from collections.abc import Mapping, Sequence
from math import isclose, isfinite

import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthen.integrations.calls import IGNORED, NUMBER, Call, must_have, outputs_of
from lengthen.util.errors import SettingError

# Of a gradient by the logits, summed over absolute values: rounding is below 1e-6 of it, the
# smallest z-loss in use (1e-5) adds 1e-4 at a vocabulary of 50,000.
ROUNDING_OF_LOGITS = 3e-5
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-5}  # of a loss, as a share
ROUNDING_OF_LESS = 1e-2  # of one in lower precision
RULE = "must be the cross entropy of shift_labels over num_items_in_batch"
LONE = "leave out label smoothing, z-losses and router losses; take shift_labels as they are"
WHOLE = f"hand {NUMBER} on to the model; over several processes multiply by their number"


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
    """Return the error for a step whose loss was another one, or so many times the right."""
    if abs(factor - 1) < 0.1:
        return SettingError("loss", f"{RULE}; this step trained on another one", None, LONE)
    return SettingError("loss", f"{RULE}; this step had {factor:.4g} times it", None, WHOLE)


def must_be_all(loss: float, trained: float, step: int) -> None:
    """Raise SettingError where more was trained on in a step than `loss`, which is recorded.

    A step that is not finite shows nothing.
    """
    if not (isfinite(loss) and isfinite(trained)):
        return
    if not isclose(loss, trained, rel_tol=2e-5, abs_tol=1e-4):
        rule = f"{RULE}, which was {loss:.6g} in step {step}; the Trainer trained on"
        raise SettingError("loss", rule, trained, LONE)


def must_be_slope(slope: Tensor, logits: Tensor, targets: Tensor, weight: float) -> None:
    """Raise SettingError unless `slope` is the gradient of `weight` times `summed` by the logits.

    In numbers (p - 1[target]) * weight, in the precision of the logits.
    """
    far = size = theirs2 = along = ours2 = 0.0
    both = by_row(slope, targets), by_row(logits, targets)
    for row, z, target in zip(*both, targets, strict=True):
        ours = slope_of(z, target.to(z.device), weight).to(row.dtype).float()
        theirs = row.float()
        far += float((theirs - ours).abs().sum())
        size += float(ours.abs().sum())
        theirs2 += float(theirs.square().sum())
        along += float((theirs * ours).sum())
        ours2 += float(ours.square().sum())
    if far <= ROUNDING_OF_LOGITS * size:
        return
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
    was_training = model.training
    model.eval()
    with torch.enable_grad():
        # Two passes: a compiled model goes backward once through each.
        _, ours, exact = _tried(model, call, batch)
        right = _gradients(model, ours)
        loss, ours, _ = _tried(model, call, batch)
        same = loss is not None and near(loss.detach().reshape(()), ours.detach())
        extra = _gradients(model, loss.float().reshape(()) - ours) if loss is not None else []
    model.train(was_training)
    if same and _adds_nothing(right, extra, exact=exact):
        return
    rule = f"must compute the cross entropy of shift_labels over {NUMBER}, and nothing else"
    raise SettingError("model", rule, type(model).__name__, LONE)


def _tried(
    model: nn.Module, call: Call, batch: Mapping[str, Tensor]
) -> tuple[Tensor | None, Tensor, bool]:
    """Return a model's loss and our own, 0-d, and whether it computes in float32."""
    targets = batch["shift_labels"]
    number = targets.numel() * (2 if call.numbered else 1)  # twice: half of what a mean would be
    loss, logits = outputs_of(call.on(model, batch, number), targets)
    logits = must_have(logits, model)
    if not logits.requires_grad:
        rule = "must return the logits that its loss comes from, with their gradient"
        raise SettingError("model", rule, type(model).__name__, "return them without detach()")
    return loss, summed(logits, targets) / number, logits.dtype == torch.float32


def _gradients(model: nn.Module, loss: Tensor) -> list[Tensor | None]:
    parameters = [one for one in model.parameters() if one.requires_grad]
    return list(torch.autograd.grad(loss, parameters, allow_unused=True))


def _adds_nothing(
    right: Sequence[Tensor | None], extra: Sequence[Tensor | None], *, exact: bool
) -> bool:
    """Say whether gradients are nothing beside the right ones, by each parameter."""
    sizes = [0.0 if one is None else float(one.float().norm()) for one in right]
    share, floor = (1e-3, 1e-6) if exact else (2e-2, 1e-4)
    least = floor * float(torch.tensor(sizes).norm())
    return all(
        one is None or float(one.float().norm()) <= share * size + least
        for one, size in zip(extra, sizes, strict=True)
    )
