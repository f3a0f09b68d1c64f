"""What a step says of its stability beside its loss; nothing here changes the training."""

import torch
from torch import Tensor

from lengthen.config.schema import Monitor
from lengthen.core.schedule import crossed
from lengthen.distributed.context import DistributedContext
from lengthen.model.gpt import GPT
from lengthen.model.optim import AdamW, second_moment_scale, update_rms

UPDATES = ("update_rms_decayed", "update_rms_undecayed", "update_rms_muon")


class StabilityMonitor:
    """The numbers of one step; the host does not wait for any of them here."""

    def __init__(
        self, settings: Monitor, model: GPT, optimizer: AdamW, context: DistributedContext
    ) -> None:
        self._settings, self._model = settings, model
        self._optimizer, self._context = optimizer, context
        self._largest: Tensor | None = None  # logit of this step so far; None: not measured in it

    def begin(self, step: int) -> None:
        """Begin the step after `step` finished ones, once more where it did not fit."""
        due = crossed(self._settings.every_steps, step, step + 1)
        self._model.watched = self._settings.layer if due else None
        self._largest = None
        if due:  # filled on the device: a copy from the host would wait for it
            dtype, device = self._context.dtype, self._context.device
            self._largest = torch.full((), -torch.inf, dtype=dtype, device=device)

    def take(self, *, counts: bool) -> None:
        """Take note of the last forward pass, unless blank rows stood in for none."""
        if self._largest is not None and counts:
            assert self._model.largest_logit is not None
            self._largest = torch.maximum(self._largest, self._model.largest_logit)

    def measures(self, finite: Tensor) -> dict[str, Tensor]:
        """Return the numbers of the step, 0-d, by their names in its record.

        `finite` (0-d bool) says whether the weights were updated.
        """
        self._model.watched = None
        variance = ("variance_norm", "variance_max")
        named = dict(zip(variance, second_moment_scale(self._optimizer), strict=True))
        if self._largest is None:
            return named
        groups = UPDATES if self._optimizer.muons else UPDATES[:2]
        updates = torch.where(finite, update_rms(self._optimizer), torch.nan)
        largest = self._context.all_reduce_max(self._largest)
        return {**named, "largest_logit": largest, **dict(zip(groups, updates, strict=True))}
