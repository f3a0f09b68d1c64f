"""What ranks do together at an evaluation whose rows their batches do not divide."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lengthen.integrations import transformers
from lengthen.integrations.dataset import rows_of_rank
from lengthen.util.errors import SettingError
from tests.integrations.hosted import arguments


class Reduced(Exception):
    """Stands for what a backend does with a tensor."""


def test_the_sum_over_ranks_is_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def reduce(total: Tensor) -> None:
        raise Reduced(total.device.type)

    monkeypatch.setattr(dist, "all_reduce", reduce)
    with pytest.raises(Reduced, match="meta"):
        transformers._mean_over_ranks([1.0], 1, torch.device("meta"))


def test_rows_of_somebody_else_are_refused_where_they_would_be_filled_up(tmp_path: Path) -> None:
    rows = [{"input_ids": torch.zeros(4), "labels": torch.zeros(4)}] * 3
    args = arguments(tmp_path, per_device_eval_batch_size=2)
    with pytest.raises(SettingError, match="eval_dataset: must have a number of rows that 2 div"):
        rows_of_rank(rows, args)
