"""The model is GPT-2, and its loss a sum that no cutting into passes or chunks can change."""

import shutil
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional

from lengthen.config.model import Model
from lengthen.distributed.wrap import compile_blocks
from lengthen.model.cost import CHUNK
from lengthen.model.gpt import GPT
from lengthen.model.loss import summed_loss

VOCABULARY, LENGTH = 61, 16


def small(
    dtype: torch.dtype = torch.float32,
    *,
    dropout: float = 0.0,
    seed: int = 0,
    recompute: bool = False,
) -> GPT:
    shape = Model(
        layers=2,
        width=24,
        heads=3,
        length=LENGTH,
        vocabulary=VOCABULARY,
        dropout=dropout,
        init_std=0.2,  # large enough for attention to matter
    )
    model = GPT(shape, recompute=recompute)
    model.initialise(torch.Generator().manual_seed(seed))
    return model.to(dtype)


def batch(rows: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (rows, length + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def gradients(model: GPT) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def plain_loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    logits = model.logits(inputs).flatten(0, 1)
    return functional.cross_entropy(logits, targets.flatten(), reduction="sum")


@pytest.mark.parametrize("length", [1, 5, LENGTH])
def test_the_loss_is_that_of_the_gpt2_of_transformers(length: int) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is a dev dependency")
    ours, inputs = small(), batch(3, length)[0]
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=24, n_layer=2, n_head=3
        )
    ).eval()
    theirs.load_state_dict(as_gpt2(ours.state_dict()), strict=True)
    logits = theirs(inputs).logits
    torch.testing.assert_close(ours.logits(inputs), logits, atol=1e-5, rtol=1e-5)
    targets = batch(3, length)[1]
    mean = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert (ours(inputs, targets) / targets.numel()).item() == pytest.approx(mean.item(), abs=1e-5)


def as_gpt2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights; theirs are stored inputs first, and the tied table twice."""
    names = {
        "tokens": "wte",
        "positions": "wpe",
        "blocks": "h",
        "attention_norm": "ln_1",
        "perceptron_norm": "ln_2",
        "attention": "attn",
        "perceptron": "mlp",
        "qkv": "c_attn",
        "out": "c_proj",
        "up": "c_fc",
        "down": "c_proj",
        "norm": "ln_f",
    }
    renamed = {"lm_head.weight": state["tokens.weight"]}
    for name, value in state.items():
        path = ".".join(names.get(part, part) for part in name.split("."))
        is_product = value.dim() == 2 and "blocks" in name
        renamed[f"transformer.{path}"] = value.T if is_product else value
    return renamed


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, LENGTH), cuts=st.lists(st.integers(1, 8), max_size=4), data=st.data())
def test_no_split_of_the_rows_changes_the_gradient(
    length: int, cuts: list[int], data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, 9), label="rows")
    model = small(torch.float64)
    inputs, targets = batch(rows, length)
    whole = model(inputs, targets)
    whole.backward()
    unsplit = gradients(model)
    model.zero_grad()
    borders = sorted({min(cut, rows) for cut in cuts} | {0, rows})
    total = 0.0
    for first, last in pairwise(borders):
        part = model(inputs[first:last], targets[first:last])
        part.backward()
        total += part.item()
    assert total == pytest.approx(whole.item(), rel=1e-10)
    assert (gradients(model) - unsplit).norm() <= 1e-10 * unsplit.norm()


@pytest.mark.parametrize("tokens", [1, CHUNK - 1, CHUNK, 2 * CHUNK + 3])
def test_the_chunked_loss_is_the_plain_one(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(tokens, 8), (VOCABULARY, 8)]
    hidden, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    )
    targets = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    plain = functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    expected = torch.autograd.grad(3 * plain, (hidden, weight))
    chunked = summed_loss(hidden, weight, targets)
    found = torch.autograd.grad(3 * chunked, (hidden, weight))
    torch.testing.assert_close(chunked, plain, rtol=1e-12, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_loss_without_gradients_is_the_same() -> None:
    model, (inputs, targets) = small(), batch(4, LENGTH)
    with torch.no_grad():
        quiet = model(inputs, targets)
    assert quiet.item() == model(inputs, targets).item()
    assert not quiet.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_has_the_precision_of_the_weights(dtype: torch.dtype) -> None:
    loss = small(dtype)(*batch(2, 4))
    assert loss.dtype == dtype
    assert loss.shape == ()


def test_a_huge_loss_stays_finite() -> None:
    hidden = torch.tensor([[1e4, 0.0]])
    loss = summed_loss(hidden, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([1]))
    assert loss.item() == 2e4


def test_bfloat16_loses_little_and_sums_in_float32() -> None:
    model, (inputs, targets) = small(), batch(CHUNK // LENGTH + 1, LENGTH)
    exact = model(inputs, targets)
    exact.backward()
    expected = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(inputs, targets)
        plain = plain_loss(model, inputs, targets)
    rounded.backward()
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-3)
    assert rounded.item() == pytest.approx(plain.item(), rel=1e-5)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert (gradients(model) - expected).norm() < 0.02 * expected.norm()


def test_a_token_reads_nothing_that_follows_it() -> None:
    model, inputs = small(), batch(1, LENGTH)[0]
    changed = inputs.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % VOCABULARY
    first, second = model.logits(inputs)[0], model.logits(changed)[0]
    torch.testing.assert_close(first[:9], second[:9])
    assert not torch.equal(first[9:], second[9:])


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    model, inputs = small(), batch(5, 7)[0]
    torch.testing.assert_close(model.logits(inputs)[3:4], model.logits(inputs[3:4]))


def test_dropout_drops_in_training_only() -> None:
    model, (inputs, targets) = small(dropout=0.5), batch(4, LENGTH)
    assert model(inputs, targets).item() != model(inputs, targets).item()
    model.eval()
    assert model(inputs, targets).item() == small()(inputs, targets).item()


def trained_once(model: GPT) -> tuple[Tensor, Tensor, int]:
    """Return a loss, its gradients and the bytes that layers kept for the backward pass."""
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(*batch(5, LENGTH))
    loss.backward()
    return loss.detach(), gradients(model), kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_layers_give_the_same_bits_and_keep_their_inputs_alone(
    dtype: torch.dtype, dropout: float
) -> None:
    loss, gradient, kept = trained_once(small(dtype, dropout=dropout))
    again, same_gradient, less = trained_once(small(dtype, dropout=dropout, recompute=True))
    assert torch.equal(loss, again)
    assert torch.equal(gradient, same_gradient)
    assert less < kept / 2


def test_nothing_is_recomputed_where_no_gradient_is_wanted() -> None:
    model, inputs = small(recompute=True), batch(2, LENGTH)
    with torch.no_grad():
        assert torch.equal(model(*inputs), small()(*inputs))


def test_the_same_seed_draws_the_same_weights_and_no_others() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = small()
    first.initialise(torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    second = small(torch.float64)
    second.initialise(torch.Generator().manual_seed(7))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other.float())
    torch.set_rng_state(state)
    first.initialise(torch.Generator().manual_seed(8))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first.tokens.weight.double(), second.tokens.weight)


def test_initial_weights_have_the_scale_of_gpt2() -> None:
    model = GPT(Model(layers=8, width=128, heads=4, length=512, vocabulary=512))
    model.initialise(torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter)), name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            writes = ".out." in name or ".down." in name
            std = 0.02 / 4 if writes else 0.02  # sqrt(2 * 8 layers) = 4
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name
            assert abs(parameter.mean().item()) < 0.05 * std, name


def test_the_first_loss_is_that_of_guessing() -> None:
    model = GPT(Model(layers=2, width=64, heads=4, length=LENGTH, vocabulary=VOCABULARY))
    model.initialise(torch.Generator().manual_seed(0))
    inputs, targets = batch(64, LENGTH)
    mean = model(inputs, targets) / targets.numel()
    assert mean.item() == pytest.approx(torch.tensor(VOCABULARY).log().item(), abs=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler warns of its own insides
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_warmup_makes_at_most_four_graphs() -> None:
    shape = Model(layers=2, width=32, heads=2, length=256, vocabulary=64, init_std=0.2)
    model, plain = GPT(shape), GPT(shape)
    for each in (model, plain):
        each.initialise(torch.Generator().manual_seed(0))
    compile_blocks(model)
    counters.clear()
    shapes = [(8, length) for length in range(8, 257, 8)] + [(40, 256), (1, 64), (1, 256)]
    for rows, length in shapes:
        inputs, targets = batch(rows, length)
        loss = model(inputs, targets)
        loss.backward()
        assert loss.item() == pytest.approx(plain(inputs, targets).item(), rel=1e-5)
    assert counters["stats"]["unique_graphs"] <= 4
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("tokens", [CHUNK, CHUNK + 3])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.bfloat16, 2e-2)])
def test_the_z_loss_is_in_the_gradient_alone(tokens: int, dtype: torch.dtype, close: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((tokens, 8), (VOCABULARY, 8))
    )
    targets = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    logits = hidden @ weight.T
    entropy = functional.cross_entropy(logits, targets, reduction="sum")
    trained_on = entropy + 0.1 * logits.logsumexp(dim=1).square().sum()
    expected = torch.autograd.grad(trained_on, (hidden, weight))
    low = dtype == torch.bfloat16
    inputs = [(each.float() if low else each) for each in (hidden, weight)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        chunked = summed_loss(inputs[0], inputs[1], targets, 0.1)
    found = torch.autograd.grad(chunked, (hidden, weight))
    assert chunked.item() == pytest.approx(entropy.item(), rel=close)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= close * other.norm()
    with torch.no_grad():
        assert (
            summed_loss(hidden, weight, targets, 0.1).item()
            == summed_loss(hidden, weight, targets).item()
        )
