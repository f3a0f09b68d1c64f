"""Attention in blocks of queries: torch's own to bfloat16's digits, whatever the logits' size."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck
from torch.nn.functional import scaled_dot_product_attention

from lengthen.config.model import Model
from lengthen.model import mask
from lengthen.model.causal import BLOCK, LONGEST, attend_causally
from lengthen.model.gpt import GPT
from lengthen.model.mask import attend

EDGES = [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 300]


def torchs(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, key, value, is_causal=True)


def drawn(rows: int, length: int, size: int, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """Queries, keys and values, whose logits have a standard deviation of `scale`; and a slope."""
    random = torch.Generator().manual_seed(seed)
    each = torch.randn(4, rows, 2, length, size, generator=random)
    each[0] *= scale
    return each[:3].bfloat16(), each[3].bfloat16()


def with_gradient(work: object, parts: Tensor, slope: Tensor) -> list[Tensor]:
    assert callable(work)
    leaf = parts.clone().requires_grad_()
    mixed = work(*leaf)
    torch.autograd.backward(mixed, slope)
    assert leaf.grad is not None
    return [mixed.detach().double(), *leaf.grad.double()]


@settings(max_examples=40)
@given(
    rows=st.integers(1, 3),
    length=st.sampled_from(EDGES),
    size=st.sampled_from([16, 24, 64]),
    scale=st.sampled_from([0.1, 1.0, 4.0, 20.0]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_as_exact_as_those_of_torchs_kernel(
    rows: int, length: int, size: int, scale: float, seed: int
) -> None:
    parts, slope = drawn(rows, length, size, scale, seed)
    exact = with_gradient(torchs, parts.double(), slope.double())
    ours, theirs = (with_gradient(one, parts, slope) for one in (attend_causally, torchs))
    for found, other, right in zip(ours, theirs, exact, strict=True):
        scale_of = float(right.norm()) + 1e-9
        error, usual = (float((one - right).norm()) / scale_of for one in (found, other))
        assert error < 2 * usual + 2e-3


@settings(max_examples=10)
@given(length=st.sampled_from(EDGES[1:]), seed=st.integers(0, 99))
def test_no_later_token_changes_a_bit_of_an_earlier_one(length: int, seed: int) -> None:
    parts, _ = drawn(1, length, 16, 1.0, seed)
    for place, _ in pairwise(range(1, length, 37)):
        others = parts.clone()
        others[..., place:, :] += 1
        first, second = (attend_causally(*one)[..., :place, :] for one in (parts, others))
        assert torch.equal(first, second)


def test_nothing_of_all_pairs_is_kept_for_the_backward_pass() -> None:
    parts, _ = drawn(1, 512, 16, 1.0, 0)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend_causally(*parts.clone().requires_grad_())
    assert 0 < max(kept) <= parts[0].numel()


@pytest.mark.parametrize(("length", "in_blocks"), [(8, 2), (LONGEST, 2), (LONGEST + 1, 0)])
def test_rows_of_bfloat16_on_a_processor_take_it_by_their_length(
    length: int, in_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def counted(*parts: Tensor) -> Tensor:
        taken.append(parts[0].shape[2])
        return attend_causally(*parts)

    monkeypatch.setattr(mask, "attend_causally", counted)
    model = GPT(Model(layers=2, width=16, heads=2, length=LONGEST + 1, vocabulary=30))
    model.initialise(torch.Generator().manual_seed(0))
    tokens = torch.randint(30, (1, length), generator=torch.Generator().manual_seed(0))
    exact = model(tokens, tokens).item()
    assert not taken  # of float32
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, tokens)
        one_document = model(tokens, tokens, None, torch.zeros_like(tokens))
    assert len(taken) == in_blocks
    assert loss.item() == pytest.approx(exact, rel=1e-3)
    assert one_document.item() == pytest.approx(exact, rel=1e-3)


def test_what_is_masked_or_dropped_is_left_to_torchs_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mask, "attend_causally", None)
    parts, _ = drawn(1, 200, 16, 1.0, 0)
    attend(parts[0], parts[1], parts[2], torch.zeros(200, 200).bfloat16(), 0.0)
    attend(parts[0], parts[1], parts[2], None, 0.5)


@pytest.mark.filterwarnings("default")  # the compiler warns of its own insides
@pytest.mark.parametrize("rows", [1, 3])
def test_a_graph_has_it_as_one_operator_with_the_same_bits(rows: int) -> None:
    def causally(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, None, 0.0)

    in_graph = torch.compile(causally, backend="aot_eager", fullgraph=True, dynamic=True)

    def of_layers(work: Callable[..., Tensor], each: Tensor) -> tuple[Tensor, Tensor]:
        leaf = each.permute(1, 3, 0, 2, 4).contiguous().requires_grad_()
        # Views of one product, as the layers have them.
        mixed = work(*(part.transpose(1, 2) for part in leaf.unbind(2)))
        torch.autograd.backward(mixed.float().square().sum())
        assert leaf.grad is not None
        return mixed, leaf.grad

    for length in (8, BLOCK + 1, 300):
        each, _ = drawn(rows, length, 16, 1.0, 0)
        with torch.autocast("cpu", torch.bfloat16):
            alone, compiled = of_layers(causally, each), of_layers(in_graph, each)
        assert compiled[0].is_contiguous()
        assert all(map(torch.equal, alone, compiled))


def test_its_operators_are_as_torch_wants_them() -> None:
    parts, slope = drawn(2, 40, 16, 1.0, 0)
    query, key, value = (part.clone().requires_grad_() for part in parts)
    opcheck(torch.ops.lengthen.attend_causally, (query, key, value))
    _, largest = torch.ops.lengthen.attend_causally(*parts)
    opcheck(torch.ops.lengthen.attend_causally_back, (slope, *parts, largest))
