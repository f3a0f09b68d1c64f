"""AdamW as a run uses it: who decays, what clipping returns, what a skipped update leaves alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lengthen.config.model import Model
from lengthen.config.schema import Optimizer
from lengthen.core.schedule import StepPlan
from lengthen.model import optim
from lengthen.model.gpt import GPT
from lengthen.model.optim import (
    AdamW,
    build_optimizer,
    clip,
    second_moment_scale,
    set_rate,
    set_step,
    update,
)

YES, NO = torch.tensor(True), torch.tensor(False)


def model_and_optimizer(weight_decay: float = 0.0) -> tuple[GPT, AdamW]:
    model = GPT(Model(layers=2, width=16, heads=2, length=8, vocabulary=32))
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = build_optimizer(model, Optimizer(learning_rate=1e-2, weight_decay=weight_decay))
    set_rate(optimizer, 1e-2)
    return model, optimizer


def give_gradients(model: GPT, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def everything(model: GPT, optimizer: AdamW) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in [*model.parameters(), *moments]]


@pytest.mark.parametrize("decay_positions", [False, True])
def test_matrices_decay_and_vectors_never_do(decay_positions: bool) -> None:
    model, _ = model_and_optimizer()
    decayed, undecayed = optim.parameter_groups(model, 0.1, decay_positions=decay_positions)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [{names[id(p)] for p in group["params"]} for group in (decayed, undecayed)]
    matrices = {name for name, p in model.named_parameters() if p.dim() == 2}
    vectors = {name for name, p in model.named_parameters() if p.dim() == 1}
    table = set() if decay_positions else {"positions.weight"}
    assert groups == [matrices - table, vectors | table]
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.1, 0.0)


def test_decay_shrinks_what_it_should_and_nothing_else() -> None:
    model, optimizer = model_and_optimizer(weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    update(optimizer, YES)
    for name, parameter in model.named_parameters():
        decays = parameter.dim() == 2 and name != "positions.weight"
        kept = 1 - 1e-2 * 0.5 if decays else 1.0
        torch.testing.assert_close(parameter.detach(), kept * before[name], rtol=1e-6, atol=0)


def test_the_update_is_fused_here_and_that_of_adamw() -> None:
    model, optimizer = model_and_optimizer(weight_decay=0.1)
    assert optimizer.defaults["fused"]
    plain_model, _ = model_and_optimizer()
    groups = optim.parameter_groups(plain_model, 0.1, decay_positions=False)
    plain = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    for seed in range(3):
        give_gradients(model, seed)
        give_gradients(plain_model, seed)
        update(optimizer, YES)
        plain.step()
    for one, other in zip(model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_an_update_that_is_not_finite_touches_nothing(fused: bool, poison: float) -> None:
    model, optimizer = model_and_optimizer(weight_decay=0.1)
    if not fused:
        groups = optimizer.param_groups
        optimizer = AdamW([{**group, "fused": False} for group in groups], lr=1e-2, fused=False)
    give_gradients(model)
    update(optimizer, YES)
    before = everything(model, optimizer)
    give_gradients(model, seed=1)
    model.tokens.weight.grad = torch.full_like(model.tokens.weight, poison)
    norm = clip(model.parameters(), 1.0)
    assert not torch.isfinite(norm)
    update(optimizer, torch.isfinite(norm))
    after = everything(model, optimizer)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert {state["step"].item() for state in optimizer.state.values()} == {1.0}
    give_gradients(model)
    update(optimizer, YES)
    assert {state["step"].item() for state in optimizer.state.values()} == {2.0}
    assert not torch.equal(list(model.parameters())[-1].detach(), before[-1])


def test_a_first_update_may_be_skipped_too() -> None:
    model, optimizer = model_and_optimizer()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    give_gradients(model)
    update(optimizer, NO)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert second_moment_scale(optimizer).tolist() == [0.0, 0.0]


@settings(max_examples=30)
@given(limit=st.floats(0.01, 100.0))
def test_clipping_returns_the_norm_before_and_leaves_the_limit(limit: float) -> None:
    model, _ = model_and_optimizer()
    give_gradients(model)
    norm = total_norm(model)
    assert clip(model.parameters(), limit).item() == pytest.approx(norm, rel=1e-5)
    assert total_norm(model) == pytest.approx(min(norm, limit), rel=1e-4)


def test_a_limit_of_zero_clips_nothing() -> None:
    model, _ = model_and_optimizer()
    give_gradients(model)
    norm = total_norm(model)
    assert clip(model.parameters(), 0.0).item() == pytest.approx(norm, rel=1e-5)
    assert total_norm(model) == norm


def total_norm(model: GPT) -> float:
    squares = (p.grad.double().square().sum() for p in model.parameters() if p.grad is not None)
    return math.sqrt(sum(square.item() for square in squares))


def test_the_rate_is_that_of_the_next_update() -> None:
    model, optimizer = model_and_optimizer()
    give_gradients(model)
    before = model.tokens.weight.detach().clone()
    set_rate(optimizer, 0.0)
    update(optimizer, YES)
    assert torch.equal(model.tokens.weight, before)
    set_rate(optimizer, 1e-3)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}


def plain_adamw(
    model: GPT, settings: Optimizer, tokens: list[int], rates: list[float], beta2s: list[float]
) -> dict[str, Tensor]:
    """AdamW written out, whose second moment is corrected by the product of its own beta2."""
    decayed = {id(p) for p in optim.parameter_groups(model, 1, decay_positions=False)[0]["params"]}
    found = {name: p.detach().clone() for name, p in model.named_parameters()}
    decays = {n: settings.weight_decay * (id(p) in decayed) for n, p in model.named_parameters()}
    first = {name: torch.zeros_like(value) for name, value in found.items()}
    second = {name: torch.zeros_like(value) for name, value in found.items()}
    beta1, lack1, lack2 = settings.betas[0], 1.0, 1.0
    for seed, (rate, beta2) in enumerate(zip(rates, beta2s, strict=True)):
        if not tokens[seed]:  # an update that was skipped
            continue
        give_gradients(model, seed)
        lack1, lack2 = lack1 * beta1, lack2 * beta2
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            assert gradient is not None
            first[name] = beta1 * first[name] + (1 - beta1) * gradient
            second[name] = beta2 * second[name] + (1 - beta2) * gradient**2
            step = first[name] / (1 - lack1)
            step = step / ((second[name] / (1 - lack2)).sqrt() + settings.epsilon)
            found[name] = found[name] * (1 - rate * decays[name]) - rate * step
    return found


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    half_life=st.integers(500, 20_000),
    fused=st.booleans(),
)
def test_a_beta2_that_follows_the_tokens_is_corrected_by_the_product_of_all(
    tokens: list[int], half_life: int, fused: bool
) -> None:
    asked = Optimizer(learning_rate=1e-2, weight_decay=0.5, epsilon=1e-2, beta2_half_life=half_life)
    model = GPT(Model(layers=1, width=8, heads=2, length=4, vocabulary=8)).double()
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = build_optimizer(model, asked)
    assert optimizer.defaults["fused"]
    if not fused:
        groups = optimizer.param_groups
        optimizer = AdamW([{**group, "fused": False} for group in groups], lr=0.0, fused=False)
    rates = [1e-2 / (1 + number) for number in range(len(tokens))]
    beta2s = [0.5 ** (number / half_life) for number in tokens]
    expected = plain_adamw(model, asked, tokens, rates, beta2s)
    trained = updates = 0
    for seed, (number, rate) in enumerate(zip(tokens, rates, strict=True)):
        # What is skipped (here a step of 0 tokens) counts nowhere.
        plan = StepPlan(1, number or 77, rate)
        set_step(optimizer, asked, plan, trained + plan.tokens, updates + 1)
        give_gradients(model, seed)
        update(optimizer, YES if number else NO)
        trained, updates = trained + number, updates + (number > 0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.detach(), expected[name], rtol=1e-12, atol=1e-12, msg=name
        )


@given(
    tokens=st.integers(1, 10**7), half_life=st.integers(1, 10**12), updates=st.integers(1, 10**6)
)
def test_steps_of_equal_tokens_change_nothing_but_beta2_to_the_last_bit(
    tokens: int, half_life: int, updates: int
) -> None:
    asked = Optimizer(learning_rate=1.0, epsilon=1e-3, beta2_half_life=half_life)
    (weight,) = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = AdamW([weight], lr=0.0, eps=1e-3, weight_decay=0.1)
    set_step(optimizer, asked, StepPlan(1, tokens, 0.3), updates * tokens, updates)
    (group,) = optimizer.param_groups
    beta2 = 0.5 ** (tokens / half_life)
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.3, 1e-3, 0.1)
    assert group["betas"] == (0.9, beta2)


def test_the_second_moment_is_read_over_all_parameters() -> None:
    model, optimizer = model_and_optimizer()
    assert second_moment_scale(optimizer).tolist() == [0.0, 0.0]
    for seed in range(2):
        give_gradients(model, seed)
        update(optimizer, YES)
    moments = [state["exp_avg_sq"].double() for state in optimizer.state.values()]
    roots = torch.cat([moment.sqrt().flatten() for moment in moments])
    norm, largest = second_moment_scale(optimizer).tolist()
    assert norm == pytest.approx(roots.abs().sum().item(), rel=1e-5)
    assert largest == pytest.approx(roots.max().item(), rel=1e-6)


def test_an_empty_shard_has_no_largest_element() -> None:
    shards = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(0, 4))]
    optimizer = AdamW(shards, lr=1e-2, betas=(0.9, 0.75), fused=True)
    for shard in shards:
        shard.grad = 2 * torch.ones_like(shard)
    update(optimizer, YES)
    assert second_moment_scale(optimizer).tolist() == [3.0, 1.0]  # sqrt(0.25 * 2 * 2) three times
