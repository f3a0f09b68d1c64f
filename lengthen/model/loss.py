"""The summed loss of the model's logits, of which few exist at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lengthen.model.cost import CHUNK


def summed_loss(hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0) -> Tensor:
    """Return the sum of the cross-entropies of `hidden @ weight.T`, of which chunks exist alone.

    The gradient is that of the sum of  cross-entropy + z_loss * log(Z)^2,  where Z is the sum of
    the exponentials of a token's logits (PaLM, arXiv:2204.02311, section 5): what is reported stays
    comparable whatever is trained on.

    `hidden` (tokens, width), `weight` (vocabulary, width), `targets` (tokens,) int64. Under
    autocast the products are in its precision, and all that is summed in the weight's.
    """
    dtype = product_dtype(weight)
    return _apply(hidden, weight, targets, dtype, z_loss, torch.is_grad_enabled())


def product_dtype(weight: Tensor) -> torch.dtype:
    """Return the precision of products with `weight`: that of autocast, or its own."""
    device = weight.device.type
    low = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if low else weight.dtype


class _SummedLoss(torch.autograd.Function):
    """Loss and gradients of a chunk of tokens while its logits exist, so that none are kept.

    `functional.linear_cross_entropy` does the same, but sums in bfloat16 where the input is: with
    its default options a mean loss of 9.04 comes out as 8.5. The way around that works the logits
    out twice and is slower (`benchmarks.loss` prints both).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        z_loss: float,
        train: bool,
    ) -> Tensor:
        inputs, table = hidden.to(dtype), weight.to(dtype)
        loss = weight.new_zeros(())
        to_hidden, to_weight = torch.empty_like(inputs), torch.zeros_like(weight)
        # Made once: the hole of a freed chunk is too small for the next, which must be aligned.
        size = min(CHUNK, len(inputs)), len(table)
        all_logits, all_log_p = inputs.new_empty(size), weight.new_empty(size)
        for first in range(0, len(inputs), CHUNK):
            rows = slice(first, first + CHUNK)
            target, count = targets[rows, None], len(inputs[rows])
            logits, log_p = all_logits[:count], all_log_p[:count]
            torch.mm(inputs[rows], table.T, out=logits)
            torch.log_softmax(logits, dim=1, dtype=weight.dtype, out=log_p)
            chosen = logits.gather(1, target) if z_loss else None
            log_p_target = log_p.gather(1, target)
            loss -= log_p_target.sum()
            if not train:
                continue
            # d loss / d logits = p - 1[target], written over log p and, in low precision, logits.
            slope = log_p.exp_()
            if chosen is not None:  # d log(Z)^2 / d logits = 2 log(Z) p
                slope *= 1 + 2 * z_loss * (chosen - log_p_target)
            slope.scatter_add_(1, target, log_p.new_full(target.shape, -1.0))
            if dtype == weight.dtype:
                to_weight.addmm_(slope.T, inputs[rows])
            else:
                slope = logits.copy_(slope)
                to_weight += slope.T @ inputs[rows]
            torch.mm(slope, table, out=to_hidden[rows])
        ctx.save_for_backward(to_hidden, to_weight)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden, to_weight = ctx.saved_tensors
        return to_hidden * scale, to_weight * scale, None, None, None, None


_apply: Callable[[Tensor, Tensor, Tensor, torch.dtype, float, bool], Tensor] = _SummedLoss.apply
