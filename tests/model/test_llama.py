"""The switches together are the Llama and the Qwen3 of Transformers, with the same weights."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lengthen.config.model import Model
from lengthen.model.gpt import GPT

VOCABULARY, LENGTH, WIDTH, HEADS, INNER = 61, 16, 32, 4, 40
LLAMA: dict[str, Any] = {
    "positions": "rope",
    "norm": "rms",
    "mlp": "swiglu",
    "mlp_width": INNER,
    "tied": False,
    "bias": False,
}
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tied": True},
    "biases": {"bias": True},
    "two heads of keys": {"kv_heads": 2},
    "one head of keys": {"kv_heads": 1},
    "another base and epsilon": {"rope_theta": 500_000.0, "norm_eps": 1e-3},
    "qwen3": {"qk_norm": True, "norm_eps": 1e-6, "kv_heads": 2, "rope_theta": 1e6},
    "heads of another width": {"head_width": 6, "kv_heads": 2},
    "qwen3 of wide heads": {"qk_norm": True, "norm_eps": 1e-6, "kv_heads": 2, "head_width": 16},
    "tied qwen3": {"qk_norm": True, "norm_eps": 1e-6, "kv_heads": 2, "tied": True},
}
PARTS = {
    "attention_norm": "input_layernorm",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention.out": "self_attn.o_proj",
    "perceptron_norm": "post_attention_layernorm",
    "perceptron.gate": "mlp.gate_proj",
    "perceptron.up": "mlp.up_proj",
    "perceptron.down": "mlp.down_proj",
}


def ours_of(shape: Model) -> GPT:
    model = GPT(shape)
    model.initialise(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # gains and biases that matter
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def theirs_of(shape: Model) -> Any:
    library = pytest.importorskip("transformers", reason="transformers is a dev dependency")
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": LENGTH,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": shape.tied,
        "attention_bias": shape.bias,
    }
    if shape.qk_norm:
        return library.Qwen3ForCausalLM(library.Qwen3Config(**sizes))
    return library.LlamaForCausalLM(library.LlamaConfig(**sizes, mlp_bias=shape.bias))


def renamed(tensors: dict[str, Tensor], shape: Model) -> dict[str, Tensor]:
    """Return tensors by their names in Transformers, queries, keys and values apart."""
    top = {"tokens": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
    keys = shape.key_heads * shape.head_size
    theirs = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module in top:
            theirs[f"{top[module]}.{kind}"] = tensor
            continue
        _, number, part = module.split(".", 2)
        layer = f"model.layers.{number}"
        if part == "attention.qkv":
            for one, rows in zip(
                "qkv", torch.split(tensor, [len(tensor) - 2 * keys, keys, keys]), strict=True
            ):
                theirs[f"{layer}.self_attn.{one}_proj.{kind}"] = rows
        else:
            theirs[f"{layer}.{PARTS[part]}.{kind}"] = tensor
    return theirs


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_transformers(name: str) -> None:
    sizes: dict[str, Any] = {"layers": 2, "width": WIDTH, "heads": HEADS, "length": LENGTH}
    shape = Model(**sizes, vocabulary=VOCABULARY, init_std=0.2, **{**LLAMA, **CASES[name]})
    ours, theirs = ours_of(shape), theirs_of(shape)
    own = renamed(dict(ours.named_parameters()), shape)
    loaded = own | ({"lm_head.weight": own["model.embed_tokens.weight"]} if shape.tied else {})
    theirs.load_state_dict(loaded, strict=True)
    tokens = torch.randint(VOCABULARY, (3, LENGTH + 1), generator=torch.Generator().manual_seed(2))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    loss = ours(inputs, targets) / targets.numel()
    logits = theirs(inputs).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(ours.logits(inputs), logits, rtol=1e-5, atol=1e-5)
    torch.autograd.backward([loss, expected])
    found = {key: p.grad for key, p in ours.named_parameters() if p.grad is not None}
    gradients = renamed(found, shape)
    assert gradients.keys() == dict(theirs.named_parameters()).keys()
    for key, parameter in theirs.named_parameters():
        assert (gradients[key] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), key
