"""What `plan` promises, held against the model that is built and against what torch counts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lengthen.config.model import Model
from lengthen.distributed.memory import free_large_blocks_at_once
from lengthen.model import cost
from lengthen.model.gpt import GPT
from lengthen.util.errors import SettingError

LLAMA: dict[str, Any] = {
    "positions": "rope",
    "norm": "rms",
    "mlp": "swiglu",
    "mlp_width": 384,
    "tied": False,
    "bias": False,
}
QWEN: dict[str, Any] = {**LLAMA, "qk_norm": True}
SHAPES: list[dict[str, Any]] = [
    {"layers": 1, "width": 8, "heads": 1, "length": 4, "vocabulary": 11},
    {"layers": 3, "width": 48, "heads": 4, "length": 32, "vocabulary": 257},
    {"layers": 2, "width": 64, "heads": 2, "length": 128, "vocabulary": 100},
    {"layers": 2, "width": 64, "heads": 2, "length": 64, "vocabulary": 100, "positions": "rope"},
    {"layers": 2, "width": 64, "heads": 4, "length": 64, "vocabulary": 100, "qk_norm": True},
    {"layers": 2, "width": 64, "heads": 4, "length": 64, "vocabulary": 100, "norm": "rms"},
    {"layers": 2, "width": 64, "heads": 4, "length": 64, "vocabulary": 100, "bias": False},
    {"layers": 2, "width": 64, "heads": 4, "length": 64, "vocabulary": 100, "tied": False},
    {"layers": 2, "width": 64, "heads": 4, "length": 64, "vocabulary": 100, "kv_heads": 2},
    {"layers": 2, "width": 64, "heads": 4, "length": 64, "vocabulary": 100, "mlp_width": 96},
    {"layers": 2, "width": 64, "heads": 4, "length": 64, "vocabulary": 100, "mlp": "swiglu"},
    {"layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "length": 64, "vocabulary": 99, **LLAMA},
    {"layers": 2, "width": 64, "heads": 4, "kv_heads": 1, "length": 64, "vocabulary": 99, **QWEN},
    {"layers": 2, "width": 48, "heads": 3, "head_width": 24, "length": 64, "vocabulary": 99},
    {
        "layers": 2,
        "width": 64,
        "heads": 4,
        "head_width": 32,
        "length": 64,
        "vocabulary": 99,
        **QWEN,
    },
]


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_of_the_model(shape: dict[str, Any]) -> None:
    built = sum(parameter.numel() for parameter in GPT(Model(**shape)).parameters())
    assert cost.parameters(Model(**shape)) == built


def test_gpt2_has_its_124_million() -> None:
    shape = Model(layers=12, width=768, heads=12, length=1024, vocabulary=50257)
    assert cost.parameters(shape) == 124_439_808


@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize(("rows", "length"), [(2, 32), (3, 8), (1, 1)])
@pytest.mark.parametrize(("recompute", "dropout"), [(False, 0.0), (True, 0.0), (True, 0.1)])
def test_flops_are_those_that_torch_counts(
    shape: dict[str, Any], rows: int, length: int, recompute: bool, dropout: float
) -> None:
    shape = {**shape, "dropout": dropout}
    gpt = GPT(Model(**shape), recompute=recompute)
    tokens = torch.zeros((rows, length), dtype=torch.int64)
    # torch counts neither the fast attention of a CPU nor a loss in chunks: both plain here.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = gpt.logits(tokens).flatten(0, 1)
        loss = functional.cross_entropy(logits, tokens.flatten(), reduction="sum")
        torch.autograd.backward(loss)
    assert cost.flops(Model(**shape), rows, length, recompute=recompute) == pytest.approx(
        counter.get_total_flops(), rel=0.01
    )


def test_short_steps_save_attention_only() -> None:
    shape = Model(layers=2, width=64, heads=2, length=128, vocabulary=100)
    whole, cut = cost.flops(shape, 4, 128), cost.flops(shape, 64, 8)
    attention = 12 * 512 * 128 * 2 * 64
    assert whole - cut == attention - attention * 8 // 128


def test_a_missing_vocabulary_is_named() -> None:
    shape = Model(layers=1, width=8, heads=1, length=4)
    for ask in (cost.parameters, lambda s: cost.memory(s, 4), lambda s: cost.flops(s, 1, 4)):
        with pytest.raises(SettingError, match="vocabulary: is missing"):
            ask(shape)


def test_memory_grows_with_the_micro_batch_and_with_dropout() -> None:
    shape = Model(layers=2, width=64, heads=2, length=128, vocabulary=100)
    dropping = shape.model_copy(update={"dropout": 0.1})
    assert cost.memory(shape, 256) < cost.memory(shape, 512) < cost.memory(dropping, 512)
    assert cost.memory(shape, 256, recompute=True) < cost.memory(shape, 256)
    assert cost.memory(shape, 256) > 16 * cost.parameters(shape)


def test_large_attention_matrices_under_dropout_are_mapped_and_waste_nothing() -> None:
    shape = Model(layers=2, width=64, heads=8, length=1024, vocabulary=100)
    dropping, tokens = shape.model_copy(update={"dropout": 0.1}), 4096
    matrix = 4 * 8 * 1024 * tokens  # bytes
    assert matrix >= cost.MAPPED
    masks = cost.WASTE * 4 * cost.DROPOUT_KEEPS * 64 * tokens
    more = cost.memory(dropping, tokens) - cost.memory(shape, tokens)
    assert more == pytest.approx(2 * (3 * matrix + masks) + matrix, rel=1e-6)
    again = cost.memory(dropping, tokens, recompute=True) - cost.memory(dropping, tokens)
    assert again < -2.9 * matrix


def test_logits_and_the_backward_of_layers_do_not_lie_in_memory_together() -> None:
    wide = Model(layers=1, width=64, heads=2, length=512, vocabulary=60_000)
    deeper = wide.model_copy(update={"layers": 3})
    for recompute, kept in ((False, 16), (True, 1)):
        one, three = (cost.activations(shape, 512, recompute=recompute) for shape in (wide, deeper))
        # The logits are the peak, so more layers add what they keep, and nothing of their own turn.
        assert three - one == 2 * kept * 64 * 512
        logits = cost.CHUNKS * 512 * 60_000 + 2 * 64 * 512
        assert one == kept * 64 * 512 + logits + 2 * 60_000 * 64


@pytest.mark.parametrize(
    ("switches", "keeps"),
    [
        ({}, 16),
        ({"positions": "rope"}, 19),
        ({"qk_norm": True}, 21),
        ({"positions": "rope", "qk_norm": True}, 21),
        ({"norm": "rms"}, 18),
        ({"bias": False}, 16),
        ({"tied": False}, 16),
        ({"mlp_width": 256}, 12),
        ({"mlp": "swiglu", "mlp_width": 384}, 20),
        ({"kv_heads": 2}, 17),
        ({"kv_heads": 1, "positions": "rope"}, 17),
        ({"kv_heads": 1, "qk_norm": True}, 19.75),
        ({"kv_heads": 2, **LLAMA}, 23),
        ({"kv_heads": 2, **QWEN}, 26.5),
        ({"head_width": 64}, 20),
        ({"head_width": 16, "kv_heads": 2, **QWEN}, 22.25),
    ],
)
def test_a_layer_keeps_so_many_widths_of_each_token(switches: dict[str, Any], keeps: float) -> None:
    one, three = (kept({**switches, "layers": layers}) for layers in (1, 3))
    assert (three - one) / 2 == pytest.approx(keeps, abs=0.15)
    shape = Model(layers=1, width=128, heads=4, length=256, **switches)
    assert cost.layer_keeps(shape) == pytest.approx(keeps, abs=0.15)


def kept(switches: dict[str, Any]) -> float:
    """Return the widths per token that a forward pass keeps for the backward pass."""
    gpt = GPT(Model(width=128, heads=4, length=256, vocabulary=64, **switches))
    own = {parameter.untyped_storage().data_ptr() for parameter in gpt.parameters()}
    storages: dict[int, int] = {}
    tokens = torch.zeros((4, 256), dtype=torch.int64)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = gpt(tokens, tokens)
    assert loss.requires_grad
    return sum(size for place, size in storages.items() if place not in own) / (4 * 128 * 4 * 256)


MEASURED = [
    ({"layers": 6, "width": 256, "heads": 4, "length": 256, "vocabulary": 8192}, 4096),
    ({"layers": 2, "width": 256, "heads": 4, "length": 256, "vocabulary": 50257}, 2048),
    (
        {"layers": 3, "width": 128, "heads": 8, "length": 512, "vocabulary": 512, "dropout": 0.1},
        4096,
    ),
    # Thin ones: many layers over long rows, and a vocabulary that outweighs all layers.
    ({"layers": 12, "width": 32, "heads": 2, "length": 1024, "vocabulary": 512}, 4096),
    ({"layers": 4, "width": 64, "heads": 4, "length": 2048, "vocabulary": 8192}, 4096),
    ({"layers": 2, "width": 64, "heads": 4, "length": 1024, "vocabulary": 50257}, 2048),
    (
        {"layers": 6, "width": 256, "heads": 8, "kv_heads": 2, "length": 256, "vocabulary": 8192}
        | {**LLAMA, "mlp_width": 688},
        4096,
    ),
    (
        {"layers": 3, "width": 128, "heads": 4, "kv_heads": 2, "length": 512, "vocabulary": 50257}
        | {**QWEN, "tied": True},
        4096,
    ),
    ({"layers": 2, "width": 256, "heads": 4, "length": 256, "vocabulary": 50257} | LLAMA, 2048),
]
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@pytest.mark.slow
@pytest.mark.skipif(not PEAK.exists(), reason="reads the peak where Linux keeps it")
@pytest.mark.parametrize(("shape", "micro_tokens"), MEASURED)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_memory_is_what_a_process_takes(
    shape: dict[str, Any], micro_tokens: int, recompute: bool, masked: bool
) -> None:
    call = f"peak({shape!r}, {micro_tokens}, {recompute}, {masked})"
    code = f"from tests.model.test_cost import peak; print({call})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    planned = cost.memory(Model(**shape), micro_tokens, recompute=recompute)
    planned += masked * cost.FLOAT * micro_tokens * shape["length"]
    assert 0.85 * int(done.stdout) <= planned <= 1.2 * int(done.stdout)


def peak(shape: dict[str, Any], micro_tokens: int, recompute: bool, masked: bool) -> int:
    """Return the bytes that training took, beside what torch itself takes once it has trained."""
    tiny = {"layers": 1, "width": 32, "heads": 1, "length": 8, "vocabulary": 8}
    train(tiny, 8, recompute, masked)
    PEAK.write_text("5")  # forget the peak so far
    before = bytes_of("VmRSS")
    train(shape, micro_tokens, recompute, masked)
    return bytes_of("VmHWM") - before


def bytes_of(name: str) -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


def train(shape: dict[str, Any], micro_tokens: int, recompute: bool, masked: bool) -> None:
    if recompute:
        free_large_blocks_at_once()
    gpt = GPT(Model(**shape), recompute=recompute)
    gpt.initialise(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(gpt.parameters(), fused=True)
    tokens = torch.zeros((micro_tokens // gpt.length, gpt.length), dtype=torch.int64)
    for _ in range(2):
        for _ in range(3):
            loss = gpt(tokens, tokens, None, tokens if masked else None) / micro_tokens
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
