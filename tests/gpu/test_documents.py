"""Document masks on a GPU: FlexAttention computes what the added mask of a processor does."""

import pytest
import torch

from lengthen.model.mask import attend, document_mask
from tests.conftest import Configure
from tests.gpu.conftest import TrainerOn
from tests.gpu.test_trainer import steps

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("length", [64, 200, 1024])
def test_values_and_gradients_are_those_of_a_processor(device: torch.device, length: int) -> None:
    random = torch.Generator().manual_seed(length)
    ends = torch.randint(1, length // 2, (3, 8), generator=random).cumsum(1)
    places = torch.arange(length)
    documents = torch.stack([torch.bucketize(places, row, right=True) for row in ends])
    parts = torch.randn(3, 3, 4, length, 32, generator=random)
    found = []
    for where in (torch.device("cpu"), device):
        own = parts.to(where).requires_grad_()
        mask = document_mask(documents.to(where), torch.float32, size=32, dropout=0.0)
        query, key, value = own
        mixed = attend(query, key, value, mask, 0.0)
        (gradient,) = torch.autograd.grad(mixed.square().sum(), own)
        found.append((mixed.detach().cpu(), gradient.cpu()))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-2, atol=1e-2)


def test_a_masked_run_of_growing_lengths_is_that_of_a_processor(
    on_device: Configure, trainer_on: TrainerOn
) -> None:
    # The tiny store is one document: what is masked are the pieces of joined rows.
    tables = {"data": {"documents": "mask"}, "model": {"width": 64}, "batch": {"hold": "tokens"}}
    here, there = (steps(trainer_on(on_device(**tables), where), 14) for where in ("", "cpu"))
    assert any(record.joined for record in here)
    for mine, other in zip(here, there, strict=True):
        assert mine.loss == pytest.approx(other.loss, rel=1e-3)
