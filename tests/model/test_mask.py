"""Attention within documents: each document of a row as if it stood there alone."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from lengthen.config.model import Model
from lengthen.model import parts
from lengthen.model.gpt import GPT
from lengthen.model.loss import summed_loss
from lengthen.model.mask import SHORT, attend, document_mask, reads_within

LENGTH, VOCABULARY = 40, 30
# Where the documents of each row begin, and the row ends.
BORDERS = [[0, 7, 8, 25, 40], [0, 40], [0, 39, 40]]
SWITCHES: dict[str, dict[str, Any]] = {
    "learned": {},
    "rope": {"positions": "rope"},
    "qk_norm": {"qk_norm": True},
    "z_loss": {"z_loss": 0.05},
    "all of them": {"positions": "rope", "qk_norm": True, "z_loss": 0.05},
}


def documents_of(borders: list[list[int]]) -> Tensor:
    places = torch.arange(borders[0][-1])
    return torch.stack([torch.bucketize(places, torch.tensor(row), right=True) for row in borders])


def model_of(switches: dict[str, Any], *, recompute: bool = False) -> GPT:
    shape = {"layers": 2, "width": 16, "heads": 2, "init_std": 0.4, "vocabulary": VOCABULARY}
    model = GPT(Model(length=2 * LENGTH, **shape, **switches), recompute=recompute).double()
    model.initialise(torch.Generator().manual_seed(0))
    return model


def drawn(rows: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    inputs, targets = torch.randint(VOCABULARY, (2, rows, LENGTH), generator=random)
    return inputs, targets


def gradients(model: GPT, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(loss)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
@pytest.mark.parametrize("starts", [None, [0, 3, 40]])
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_each_document_alone_at_its_places_in_the_row(
    switches: dict[str, Any], starts: list[int] | None, recompute: bool
) -> None:
    model, (inputs, targets) = model_of(switches, recompute=recompute), drawn(len(BORDERS))
    firsts = None if starts is None else torch.tensor(starts)
    loss = model(inputs, targets, firsts, documents_of(BORDERS))
    ours = gradients(model, loss)
    alone = torch.zeros((), dtype=torch.float64)
    for row, borders in enumerate(BORDERS):
        for begin, end in pairwise(borders):
            cut = inputs[row : row + 1, begin:end], targets[row : row + 1, begin:end]
            alone = alone + model(*cut, torch.tensor([begin + (starts or [0] * 3)[row]]))
    theirs = gradients(model, alone)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-10, abs=0)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-10, atol=1e-10, msg=name)
    across = model(inputs, targets, firsts)
    assert across.item() != pytest.approx(loss.item(), rel=1e-3)


@given(st.lists(st.lists(st.integers(0, 4), min_size=9, max_size=9), min_size=1, max_size=3))
def test_a_token_reads_itself_and_earlier_ones_of_its_document(numbers: list[list[int]]) -> None:
    mask = document_mask(torch.tensor(numbers), torch.float64, size=8, dropout=0.0)
    assert isinstance(mask, Tensor)
    for row, own in enumerate(numbers):
        for query in range(9):
            for key in range(9):
                reads = key <= query and own[key] == own[query]
                assert mask[row, 0, query, key] == (0.0 if reads else -torch.inf)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_the_same_by_the_same_rule() -> None:
    lengths = torch.randint(1, 90, (2, 12), generator=torch.Generator().manual_seed(0)).cumsum(1)
    documents = torch.stack(
        [torch.bucketize(torch.arange(300), row, right=True) for row in lengths]
    )
    query, key, value = torch.randn(3, 2, 4, 300, 16, generator=torch.Generator().manual_seed(1))
    blocks = create_block_mask(reads_within(documents), 2, None, 300, 300, device="cpu")
    mask = document_mask(documents, torch.float32, size=16, dropout=0.0)
    plain = attend(query, key, value, mask, 0.0)
    flexible = flex_attention(query, key, value, block_mask=blocks)
    assert isinstance(flexible, Tensor)
    torch.testing.assert_close(plain, flexible, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("logits", [2**22, 2**18])  # looked through at once: 6 rows or 2
@pytest.mark.parametrize("masked", [False, True])
def test_the_largest_logit_is_one_between_tokens_of_one_document(
    monkeypatch: pytest.MonkeyPatch, logits: int, masked: bool
) -> None:
    monkeypatch.setattr(parts, "LOGITS", logits)
    random = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, 2, 600, 4, generator=random, dtype=torch.float64)
    borders = [[0, 1, 300, 599, 600], [0, 600], [0, 255, 257, 600]]
    documents = documents_of(borders if masked else [[0, 600]] * 3)
    may = document_mask(documents, torch.float64, size=4, dropout=0.0)
    assert isinstance(may, Tensor)
    whole = (query @ key.mT / 2 + may).amax()
    found = parts.largest_logit(query, key, documents if masked else None)
    assert found.item() == pytest.approx(whole.item(), rel=1e-12)


def test_with_dropout_too_no_document_reads_another() -> None:
    model, (inputs, _) = model_of({"dropout": 0.5}), drawn(len(BORDERS))
    other = inputs.clone()
    other[0, :7] = (other[0, :7] + 1) % VOCABULARY  # the first document of the first row
    read = []
    for rows in (inputs, other):
        torch.manual_seed(0)
        read.append(model.hidden(rows, None, documents_of(BORDERS))[0])
    assert torch.equal(read[0][7:], read[1][7:])
    assert not torch.equal(read[0][:7], read[1][:7])


@settings(max_examples=25)
@given(
    length=st.sampled_from([1, 8, 100, SHORT, SHORT + 1]),
    rows=st.integers(1, 3),
    masked=st.sampled_from(["added", "bool"]),
    seed=st.integers(0, 99),
)
def test_short_masked_rows_in_bfloat16_attend_with_the_digits_of_float32(
    length: int, rows: int, masked: str, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    low = torch.randn(3, rows, 2, length, 16, generator=random).bfloat16()
    documents = torch.randint(3, (rows, length), generator=random).sort().values
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        leaf = low.to(dtype, copy=True).requires_grad_()
        mask = document_mask(documents, dtype, 16, 0.0)
        assert not isinstance(mask, BlockMask)
        if masked == "bool":
            mask = mask == 0
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            mixed = attend(leaf[0], leaf[1], leaf[2], mask, 0.0)
        assert mixed.dtype == dtype
        torch.autograd.backward(mixed, torch.ones_like(mixed))
        assert leaf.grad is not None
        found.append((mixed.detach().bfloat16(), leaf.grad.bfloat16()))
    ours, exact = found
    equal = all(torch.equal(one, other) for one, other in zip(ours, exact, strict=True))
    assert equal or length > SHORT
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=4e-2)


@settings(max_examples=20)
@given(
    rows=st.integers(1, 6),
    length=st.integers(1, 9),
    spread=st.booleans(),
    documents=st.booleans(),
    switches=st.sampled_from(sorted(SWITCHES)),
    seed=st.integers(0, 99),
)
def test_short_rows_train_as_one_long_row_that_has_them_packed_side_by_side(
    rows: int, length: int, spread: bool, documents: bool, switches: str, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randint(VOCABULARY, (2, rows, length), generator=random)
    starts = torch.randint(2 * LENGTH - length + 1, (rows,), generator=random) if spread else None
    numbers = torch.randint(2, (rows, length), generator=random).sort().values
    model = model_of(SWITCHES[switches])
    loss = model(inputs, targets, starts, numbers if documents else None)
    ours = gradients(model, loss)

    firsts = torch.zeros(rows, dtype=torch.int64) if starts is None else starts
    positions = (firsts[:, None] + torch.arange(length)).reshape(1, -1)
    own = torch.arange(rows)[:, None] * 2 + numbers * documents
    mask = document_mask(own.reshape(1, -1), torch.float64, 8, 0.0)
    assert isinstance(mask, Tensor)
    hidden, _ = model.eval().read(inputs.reshape(1, -1), positions, mask)
    z_loss = model.shape.z_loss
    packed = summed_loss(hidden.flatten(0, 1), model.output, targets.flatten(), z_loss)
    theirs = gradients(model, packed)
    assert loss.item() == pytest.approx(packed.item(), rel=1e-10, abs=0)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-10, atol=1e-10, msg=name)
