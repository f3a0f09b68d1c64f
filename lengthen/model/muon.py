"""Muon, for the matrices inside the layers; all other parameters are AdamW's."""

import math

import torch
from torch import Tensor, nn

from lengthen.model.gpt import GPT


class Muon(torch.optim.Muon):
    """torch's own Muon of one matrix (rows, columns), with its momentum of 0.95 (Nesterov).

        b = 0.95 * b + 0.05 * g;  u = 0.2 * sqrt(max(rows, columns)) * NS(0.95 * b + 0.05 * g)
        W = (1 - rate * decay) * W - rate * u

    NS are five Newton-Schulz steps in bfloat16, after which all singular values are about 1 (Jordan
    et al., https://kellerjordan.github.io/posts/muon). The factor gives u the root mean square that
    AdamW's update has, so that one rate and one decay serve both (Liu et al., arXiv:2502.16982,
    section 2.2; "match_rms_adamw" in torch). b, the momentum, is all that it keeps of a gradient.
    """

    def __init__(self, matrix: nn.Parameter, weight_decay: float) -> None:
        super().__init__(
            [matrix], lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        # Sum of the squares of the last update, before rate and decay: 0-d.
        self.square = torch.full((), math.nan, dtype=matrix.dtype, device=matrix.device)

    @torch.no_grad()
    def update(self, finite: Tensor) -> None:
        """Update the matrix where `finite` (0-d bool) is true, and touch nothing where not.

        The flag stays on the device, at the price of a copy of this matrix and its momentum.
        """
        (group,) = self.param_groups
        (matrix,) = group["params"]
        kept = [
            (tensor, tensor.clone()) for tensor in (matrix, self.state[matrix]["momentum_buffer"])
        ]
        plain: torch.optim.Optimizer = self  # whose `step` is annotated
        plain.step()
        for tensor, before in kept:
            torch.where(finite, tensor, before, out=tensor)
        rate, (_, before) = group["lr"], kept[0]
        moved = matrix - before * (1 - rate * group["weight_decay"])
        self.square = moved.square_().sum() / rate**2  # NaN without a rate


def hidden_matrices(model: GPT) -> list[nn.Parameter]:
    """Return the matrices inside the layers, whatever their names: attention's, perceptron's."""
    return [parameter for parameter in model.blocks.parameters() if parameter.dim() == 2]
