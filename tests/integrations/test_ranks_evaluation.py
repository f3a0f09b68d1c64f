"""What ranks do together at an evaluation whose rows their batches do not divide."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lengthen.integrations import transformers
from lengthen.integrations.dataset import rows_of_rank
from lengthen.integrations.micro_batches import MicroBatchWatch
from lengthen.util.errors import SettingError
from tests.integrations.hosted import arguments, exact, llama


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


def test_an_evaluation_before_the_first_step_calls_the_model_with_a_row() -> None:
    model = llama()
    tokens = torch.arange(24).view(3, 8)
    rows = [{"input_ids": row, "labels": row, "shift_labels": row} for row in tokens]
    losses = MicroBatchWatch(model, 257, 8, 1).losses(rows)
    assert sum(losses) / 3 == pytest.approx(exact(model, rows), rel=1e-6)
