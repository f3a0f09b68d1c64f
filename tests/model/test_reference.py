"""The model's switches against a GPT that is written out plainly here, in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lengthen.config.model import Model
from lengthen.model.gpt import GPT
from lengthen.model.parts import KeysAndValues

VOCABULARY, LENGTH, LAYERS, WIDTH, HEADS = 61, 16, 2, 32, 4
SIZE = WIDTH // HEADS
Weights = dict[str, Tensor]

LLAMA: dict[str, Any] = {
    "positions": "rope",
    "norm": "rms",
    "mlp": "swiglu",
    "mlp_width": 40,
    "tied": False,
    "bias": False,
    "kv_heads": 2,
}
CASES: dict[str, dict[str, Any]] = {
    "learned": {},
    "rope": {"positions": "rope"},
    "rope with another base": {"positions": "rope", "rope_theta": 50.0},
    "qk_norm": {"qk_norm": True},
    "z_loss": {"z_loss": 0.05},
    "rms": {"norm": "rms"},
    "another epsilon": {"norm_eps": 0.1},
    "no bias": {"bias": False},
    "a head of its own": {"tied": False},
    "two heads of keys": {"kv_heads": 2},
    "one head of keys that turns": {"kv_heads": 1, "positions": "rope", "qk_norm": True},
    "narrow": {"mlp_width": 40},
    "swiglu": {"mlp": "swiglu", "mlp_width": 40},
    "llama": LLAMA,
    "qwen": {**LLAMA, "qk_norm": True, "tied": True, "z_loss": 0.05, "norm_eps": 1e-6},
    "cures": {"positions": "rope", "qk_norm": True, "z_loss": 0.05},
}


def model_of(switches: dict[str, Any]) -> GPT:
    sizes: dict[str, Any] = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "length": LENGTH}
    model = GPT(Model(**sizes, vocabulary=VOCABULARY, init_std=0.2, **switches))
    model.initialise(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # gains and biases that matter
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.double()


def batch(rows: int, length: int) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(
        VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(2)
    )
    return tokens[:, :-1], tokens[:, 1:]


def normed(
    x: Tensor, weights: Weights, name: str, norm: str = "layer", norm_eps: float = 1e-5, **_: Any
) -> Tensor:
    if norm == "layer":
        x = x - x.mean(-1, keepdim=True)
    scaled: Tensor = x / (x.square().mean(-1, keepdim=True) + norm_eps).sqrt()
    return scaled * weights[f"{name}.weight"] + bias(weights, name)


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + bias(weights, name)


def bias(weights: Weights, name: str) -> Tensor:
    return weights.get(f"{name}.bias", torch.zeros((), dtype=torch.float64))


def turned(x: Tensor, positions: list[int], theta: float) -> Tensor:
    """Turn the head (length, SIZE) as complex numbers: halves are real and imaginary parts."""
    pairs = torch.complex(x[:, : SIZE // 2], x[:, SIZE // 2 :])
    angles = [[p / theta ** (2 * j / SIZE) for j in range(SIZE // 2)] for p in positions]
    radians = torch.tensor(angles, dtype=torch.float64)
    pairs = pairs * torch.polar(torch.ones_like(radians), radians)
    return torch.cat([pairs.real, pairs.imag], dim=1)


def head(
    x: Tensor, weights: Weights, name: str, number: int, positions: list[int], switches: Any
) -> Tensor:
    """One row through one head: (length, WIDTH) to (length, SIZE)."""
    # The rows of `qkv` are all heads of queries, then those of keys, then those of values.
    keys = switches.get("kv_heads", HEADS)
    own = number // (HEADS // keys)
    mixed_heads = linear(x, weights, f"{name}.qkv").view(len(x), -1, SIZE)
    query, key, value = (mixed_heads[:, each] for each in (number, HEADS + own, HEADS + keys + own))
    if switches.get("qk_norm"):
        query, key = (
            part / (part.square().mean(1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.{gain}"]
            for part, gain in ((query, "query_norm.weight"), (key, "key_norm.weight"))
        )
    if switches.get("positions") == "rope":
        theta = switches.get("rope_theta", 10_000)
        query, key = turned(query, positions, theta), turned(key, positions, theta)
    mixed = []
    for now in range(len(x)):
        scores = key[: now + 1] @ query[now] / math.sqrt(SIZE)
        shares = (scores - scores.max()).exp()
        mixed.append(shares / shares.sum() @ value[: now + 1])
    return torch.stack(mixed)


def row_losses(
    weights: Weights, inputs: Tensor, targets: Tensor, start: int, switches: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The sums of the cross-entropies and of the z-losses of one row."""
    positions = list(range(start, start + len(inputs)))
    x = weights["tokens.weight"][inputs]
    if switches.get("positions") != "rope":
        x = x + weights["positions.weight"][positions]
    for layer in range(LAYERS):
        name = f"blocks.{layer}"
        read = normed(x, weights, f"{name}.attention_norm", **switches)
        heads = [
            head(read, weights, f"{name}.attention", number, positions, switches)
            for number in range(HEADS)
        ]
        x = x + linear(torch.cat(heads, dim=1), weights, f"{name}.attention.out")
        read = normed(x, weights, f"{name}.perceptron_norm", **switches)
        up = linear(read, weights, f"{name}.perceptron.up")
        if switches.get("mlp") == "swiglu":
            gate = linear(read, weights, f"{name}.perceptron.gate")
            up = gate / (1 + (-gate).exp()) * up
        else:
            up = up / 2 * (1 + (math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)).tanh())
        x = x + linear(up, weights, f"{name}.perceptron.down")
    output = weights["tokens.weight" if switches.get("tied", True) else "head.weight"]
    logits = normed(x, weights, "norm", **switches) @ output.T
    log_z = logits.exp().sum(1).log()
    entropy = (log_z - logits[range(len(targets)), targets]).sum()
    return entropy, switches.get("z_loss", 0) * log_z.square().sum()


@pytest.mark.parametrize(
    ("switches", "missing"),
    [
        ({"bias": False}, lambda name: name.endswith("bias")),
        ({"norm": "rms"}, lambda name: name.endswith("norm.bias")),
        ({"kv_heads": 2}, lambda _: False),
        ({"mlp_width": 40}, lambda _: False),
    ],
)
def test_a_switch_leaves_out_what_it_says_and_nothing_else(
    switches: dict[str, Any], missing: Callable[[str], bool]
) -> None:
    names = [name for name, _ in model_of({}).named_parameters() if not missing(name)]
    assert [name for name, _ in model_of(switches).named_parameters()] == names


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("starts", [None, [0, 5, 10]])
def test_loss_and_gradients_are_those_of_the_plain_model(
    name: str, starts: list[int] | None
) -> None:
    switches, (inputs, targets) = CASES[name], batch(3, 6)
    model = model_of(switches)
    loss = model(inputs, targets, None if starts is None else torch.tensor(starts))
    loss.backward()
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    rows = list(zip(inputs, targets, starts or [0] * 3, strict=True))
    parts = [row_losses(weights, *row, switches) for row in rows]
    torch.autograd.backward([part for row in parts for part in row if part.requires_grad])
    # What is reported is the cross-entropy alone, whatever it is trained on.
    assert loss.item() == pytest.approx(sum(entropy.item() for entropy, _ in parts), rel=1e-10)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad, weights[key].grad, rtol=1e-10, atol=1e-10, msg=key
        )


def test_rotary_positions_know_distances_alone() -> None:
    model, (inputs, targets) = model_of(CASES["rope"]), batch(3, 8)
    starts = torch.tensor([8, 0, 3])
    assert "positions.weight" not in model.state_dict()
    loss = model(inputs, targets).item()
    assert model(inputs, targets, starts).item() == pytest.approx(loss, rel=1e-12)
    assert model_of({})(inputs, targets, starts).item() != pytest.approx(loss, rel=1e-3)


def test_rotary_angles_stay_exact_under_bfloat16() -> None:
    model = model_of(CASES["rope"]).float()
    inputs, targets = batch(3, LENGTH)
    far = torch.tensor([1000, 4000, 8000])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near, shifted = model(inputs, targets), model(inputs, targets, far)
    assert shifted.item() == pytest.approx(near.item(), rel=3e-3)


def test_text_that_is_read_token_by_token_is_read_as_at_once() -> None:
    model, inputs = model_of(CASES["rope"]).eval(), batch(2, LENGTH)[0]
    whole, hidden = model.hidden(inputs), []
    past: tuple[KeysAndValues, ...] = ()
    for now in range(LENGTH):
        mask = torch.ones(1, 1, 1, now + 1, dtype=torch.bool)
        one = model.read(inputs[:, now : now + 1], torch.full((2, 1), now), mask, past, keeps=True)
        hidden.append(one[0])
        past = one[1]
    torch.testing.assert_close(torch.cat(hidden, dim=1), whole, rtol=1e-10, atol=1e-10)
