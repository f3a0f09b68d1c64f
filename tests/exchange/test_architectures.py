"""Llama, Qwen3 and GPT-2 go to Transformers and come back, and what they cannot say is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from lengthen.cli.main import main
from lengthen.data.tokenizer import resolve
from lengthen.exchange.architectures import ARCHITECTURES
from lengthen.exchange.export import export
from lengthen.exchange.layout import parameter_shapes, their_names
from lengthen.exchange.pretrained import read
from lengthen.run.directory import RunPaths
from lengthen.util.errors import CheckpointError, LengthenError, SettingError
from tests.conftest import SHARED
from tests.exchange.made import (
    assert_same,
    configured_as,
    contents,
    model_of,
    random_weights,
    rewritten,
    saved_run,
)

# Transformers warns about what it will drop one day.
pytestmark = pytest.mark.filterwarnings("ignore")

SIZES: dict[str, Any] = {"layers": 2, "width": 16, "heads": 4, "length": 64, "vocabulary": 257}
LLAMA: dict[str, Any] = {
    **SIZES,
    "positions": "rope",
    "norm": "rms",
    "mlp": "swiglu",
    "mlp_width": 40,
    "bias": False,
    "tied": False,
}
QWEN3: dict[str, Any] = {**LLAMA, "qk_norm": True, "norm_eps": 1e-6, "kv_heads": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", SIZES),
    "gpt2 with a head": ("gpt2", {**SIZES, "tied": False}),
    "gpt2 of another perceptron": ("gpt2", {**SIZES, "mlp_width": 24}),
    "llama": ("llama", LLAMA),
    "tied llama": ("llama", {**LLAMA, "tied": True}),
    "llama with biases": ("llama", {**LLAMA, "bias": True, "kv_heads": 2}),
    "llama of one key": ("llama", {**LLAMA, "kv_heads": 1}),
    "llama of another base": ("llama", {**LLAMA, "rope_theta": 5e5, "norm_eps": 1e-3}),
    "llama of its own perceptron": ("llama", {**LLAMA, "mlp_width": None}),
    "qwen3": ("qwen3", {**QWEN3, "rope_theta": 1e6}),
    "tied qwen3": ("qwen3", {**QWEN3, "tied": True}),
}
each = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def text() -> str:
    """Real English."""
    found = sorted(SHARED.glob("tinyshakespeare/*.txt"))
    if not found:
        pytest.skip("needs a text, which a clone lacks")
    return found[0].read_text(encoding="utf-8")[1000:1400]


def opened(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is a dev dependency")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


@torch.no_grad()
def losses(ours: Any, theirs: Any, ids: torch.Tensor) -> tuple[float, float]:
    logits = theirs(ids[:, :-1]).logits.flatten(0, 1)
    expected = functional.cross_entropy(logits, ids[:, 1:].flatten())
    found = ours(ids[:, :-1], ids[:, 1:]) / ids[:, 1:].numel()
    return float(found), float(expected)


@each
def test_logits_and_loss_of_a_text_are_those_of_transformers(
    tmp_path: Path, text: str, name: str
) -> None:
    kind, model = MODELS[name]
    run = saved_run(tmp_path / "run", model)
    export(run, tmp_path / "hf")
    theirs, ours = opened(tmp_path / "hf"), read(run)
    assert (theirs.config.model_type, theirs.config.vocab_size) == (kind, 257)
    ids = torch.tensor(ours.tokenizer.encode(text).ids[:260]).view(4, 65)
    with torch.no_grad():
        found, expected = ours.gpt().logits(ids[:, :-1]), theirs(ids[:, :-1]).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    loss, its_loss = losses(read(tmp_path / "hf").gpt(), theirs, ids)
    assert loss == pytest.approx(its_loss, abs=1e-5)


@each
def test_what_was_exported_comes_back_to_the_last_bit(tmp_path: Path, name: str) -> None:
    run = saved_run(tmp_path / "run", MODELS[name][1])
    export(run, tmp_path / "hf")
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "back")]) == 0
    before, after = read(run), read(tmp_path / "back")
    assert_same(before, replace(after, text=before.text))
    assert before.text.files()["tokenizer.json"] == after.text.files()["tokenizer.json"]
    export(tmp_path / "back", tmp_path / "again")
    for file, data in contents(tmp_path / "hf").items():
        assert file == "README.md" or (tmp_path / "again" / file).read_bytes() == data


def their_own(place: Path, kind: str, **values: Any) -> Any:
    """A folder that Transformers wrote, with a model of its own making."""
    transformers = pytest.importorskip("transformers", reason="transformers is a dev dependency")
    config = transformers.AutoConfig.for_model(kind, **values)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    spelled = resolve("bytes").tokenizer
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=spelled, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return model.eval()


NARROW: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
GATED: dict[str, Any] = {
    **NARROW,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "initializer_range": 0.05,
}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {**NARROW, "n_positions": 32}),
    "gpt2 with a head": ("gpt2", {**NARROW, "n_positions": 32, "tie_word_embeddings": False}),
    "llama": ("llama", GATED),
    "tied llama": ("llama", {**GATED, "tie_word_embeddings": True}),
    "llama with biases": ("llama", {**GATED, "attention_bias": True, "mlp_bias": True}),
    "llama of another base": (
        "llama",
        {**GATED, "rope_parameters": {"rope_type": "default", "rope_theta": 3e5}},
    ),
    "llama of another epsilon": ("llama", {**GATED, "rms_norm_eps": 1e-4}),
    "qwen3": ("qwen3", GATED),
    "tied qwen3": ("qwen3", {**GATED, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("name", THEIRS)
def test_what_transformers_saved_goes_back_with_every_bit_and_field(
    tmp_path: Path, name: str
) -> None:
    kind, values = THEIRS[name]
    before = their_own(tmp_path / "hf", kind, **values)
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "run")]) == 0
    export(tmp_path / "run", tmp_path / "out")
    after = opened(tmp_path / "out")
    weights = after.state_dict()
    assert weights.keys() == before.state_dict().keys()
    assert all(torch.equal(weights[name], one) for name, one in before.state_dict().items())
    ignored = {"transformers_version", "_name_or_path", "architectures", "dtype"}
    described, found = (
        {key: value for key, value in model.config.to_dict().items() if key not in ignored}
        for model in (before, after)
    )
    if kind == "gpt2":
        described["n_inner"] = 64  # where theirs says null
    assert found == described
    ids = torch.randint(257, (2, 33), generator=torch.Generator().manual_seed(0))
    loss, its_loss = losses(read(tmp_path / "run").gpt(), before, ids)
    assert loss == pytest.approx(its_loss, abs=1e-5)
    spelled = [json.loads((tmp_path / f / "tokenizer.json").read_bytes()) for f in ("hf", "out")]
    assert spelled[0]["model"] == spelled[1]["model"]
