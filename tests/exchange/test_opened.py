"""What is harmless in a folder is opened, and what is not has its true cause."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lengthen.exchange.export import export
from lengthen.exchange.layout import plain_name
from lengthen.exchange.pretrained import read, read_folder
from lengthen.util.errors import CheckpointError, DataError, LengthenError
from tests.exchange.made import (
    TINY,
    assert_same,
    configured_as,
    random_weights,
    rewritten,
    saved_run,
    sharded,
)

EMBEDDING = "transformer.wte.weight"


def renamed(change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda f: rewritten(f, lambda w: {change(name): one for name, one in w.items()})


def with_tensors(**more: Tensor) -> Callable[[Path], object]:
    named = {name.replace("__", "."): tensor for name, tensor in more.items()}
    return lambda f: rewritten(f, lambda w: {**w, **named})


def head_alone(folder: Path) -> None:
    renamed(lambda name: "lm_head.weight" if name == EMBEDDING else name)(folder)


def with_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "lm_head.weight": weights[EMBEDDING].clone()}


def of_one_file(folder: Path) -> None:
    """As other writers leave it: no metadata in the header."""
    file = folder / "model.safetensors"
    save_file(load_file(file), file, metadata=None)


def in_two_widths(folder: Path) -> None:
    def half(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        zero = {n: torch.zeros_like(t) if "c_fc" in n else t for n, t in weights.items()}
        return {n: t.bfloat16() if "c_fc" in n else t for n, t in zero.items()}

    rewritten(folder, half)


def in_double(folder: Path, name: str) -> None:
    rewritten(folder, lambda weights: {**weights, name: weights[name].double()})


def with_tokenizer_token(folder: Path, **token: Any) -> None:
    spelled = json.loads((folder / "tokenizer.json").read_bytes())
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    spelled["added_tokens"].append({"id": 257, "content": "[PAD]", **plain, **token})
    (folder / "tokenizer.json").write_text(json.dumps(spelled), encoding="utf-8")


def without(folder: Path, *names: str) -> Path:
    described = json.loads((folder / "config.json").read_bytes())
    kept = {name: value for name, value in described.items() if name not in names}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    return folder


MASK = torch.ones(1, 1, 16, 16).tril().to(torch.uint8)
HARMLESS: dict[str, Callable[[Path], object]] = {
    "the head alone": head_alone,
    "a head that is equal": lambda f: rewritten(f, with_head),
    "names of torch.compile": renamed(lambda name: f"_orig_mod.{name}"),
    "names of DDP": renamed(lambda name: f"module.{name}"),
    "names of DDP around torch.compile": renamed(lambda name: f"module._orig_mod.{name}"),
    "names of compiled layers": renamed(lambda name: name.replace("h.1.", "h.1._orig_mod.")),
    "names of FSDP and checkpointing": renamed(
        lambda name: (
            "_fsdp_wrapped_module." + name.replace("h.0.", "h.0._checkpoint_wrapped_module.")
        )
    ),
    "no prefix": renamed(lambda name: name.removeprefix("transformer.")),
    "masks under a wrapper": with_tensors(
        module__transformer__h__0__attn__bias=MASK,
        module__transformer__h__1__attn__masked_bias=torch.tensor(-1e4),
    ),
    "no metadata": of_one_file,
    "attention without dropout": lambda f: configured_as(f, attn_pdrop=0.25),
    "no quantization": lambda f: configured_as(f, quantization_config=None),
    "dtypes and caches": lambda f: configured_as(
        f, dtype="bfloat16", torch_dtype="float16", use_cache=False, n_ctx=16
    ),
    "another order of one sum": lambda f: configured_as(f, reorder_and_upcast_attn=True),
    "another name of the activation": lambda f: configured_as(
        f, activation_function="gelu_accurate"
    ),
    "the general names of a shape": lambda f: configured_as(
        without(f, "n_embd", "n_layer"), hidden_size=8, num_hidden_layers=2
    ),
    "the width of a perceptron said": lambda f: configured_as(f, n_inner=32),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_opened_as_the_same_model(folder: Path, name: str) -> None:
    before = read(folder)
    HARMLESS[name](folder)
    assert_same(before, read(folder))


def test_weights_of_two_widths_are_one_model(folder: Path) -> None:
    in_two_widths(folder)
    assert {tensor.dtype for tensor in read(folder).weights.values()} == {torch.float32}


def test_one_tensor_in_double_precision_makes_a_model_of_one_width(folder: Path) -> None:
    in_double(folder, "transformer.h.0.ln_1.weight")
    found = read(folder)
    assert {tensor.dtype for tensor in found.weights.values()} == {torch.float64}
    assert found.gpt().logits(torch.tensor([[1]])).dtype == torch.float64


def test_dropouts_that_differ_are_kept_for_whoever_trains(folder: Path) -> None:
    assert read_folder(folder).dropouts == {}
    configured_as(folder, resid_pdrop=0.1, embd_pdrop=0.0, attn_pdrop=0.2)
    assert read_folder(folder).dropouts == {
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.2,
    }


def test_a_padding_token_without_a_row_is_no_part_of_the_model(folder: Path) -> None:
    before = read(folder)
    with_tokenizer_token(folder, special=True)
    after = read(folder)
    assert after.shape == before.shape
    text = "a [PAD] b"
    assert after.tokenizer.encode(text).ids == before.tokenizer.encode(text).ids


def test_an_infinite_number_in_padding_is_no_part_of_the_model(folder: Path) -> None:
    before = read(folder)
    padding = torch.full((3, 8), torch.inf)
    rewritten(folder, lambda w: {**w, EMBEDDING: torch.cat([w[EMBEDDING], padding])})
    assert_same(before, read(configured_as(folder, vocab_size=260)))


# What is refused


def spoiled(name: str, value: float, place: tuple[int, ...]) -> Callable[[Path], object]:
    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights[name][place] = value
        return weights

    return lambda f: rewritten(f, change)


def without_index(folder: Path) -> None:
    (sharded(folder) / "model.safetensors.index.json").unlink()


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def stand_in(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "model.safetensors").write_text(text)


def both_not_finite(folder: Path) -> None:
    rewritten(folder, with_head)
    for name in (EMBEDDING, "lm_head.weight"):
        spoiled(name, torch.nan, (3, 1))(folder)


def only(name: str) -> Callable[[Path], object]:
    return lambda f: (f / "model.safetensors").rename(f / name)


CAUSES: dict[str, tuple[type[LengthenError], str, Callable[[Path], object]]] = {
    "not a number": (
        CheckpointError,
        "h.1.mlp.c_proj.bias holds values that are not finite, NaN or infinite",
        spoiled("transformer.h.1.mlp.c_proj.bias", torch.nan, (7,)),
    ),
    "infinite": (
        CheckpointError,
        "wte.weight holds values that are not finite",
        spoiled(EMBEDDING, -torch.inf, (0, 0)),
    ),
    "a tied head that is not finite": (
        CheckpointError,
        "wte.weight holds values that are not finite",
        both_not_finite,
    ),
    "quantised": (
        CheckpointError,
        "config.json: quantization_config: the weights are quantised; save the model dequantised",
        lambda f: configured_as(f, quantization_config={"quant_method": "gptq", "bits": 4}),
    ),
    "eight bits": (
        CheckpointError,
        "as F8_E5M2, must be F64, F32, F16, BF16",
        lambda f: rewritten(f, lambda w: {n: t.to(torch.float8_e5m2) for n, t in w.items()}),
    ),
    "shards without an index": (
        CheckpointError,
        "has neither model.safetensors nor model.safetensors.index.json, "
        "only 'model-00001-of-00002.safetensors'",
        without_index,
    ),
    "an adapter": (
        CheckpointError,
        "only 'adapter_model.safetensors'",
        only("adapter_model.safetensors"),
    ),
    "another format": (CheckpointError, "only 'model-q4.gguf'", only("model-q4.gguf")),
    "cut off": (
        CheckpointError,
        "model.safetensors is cut off, or longer than its header says",
        cut,
    ),
    "a stand-in": (CheckpointError, "model.safetensors is a Git LFS pointer", stand_in),
    "two names for one tensor": (
        CheckpointError,
        "holds 'ln_f.bias' twice",
        with_tensors(_orig_mod__transformer__ln_f__bias=torch.zeros(8)),
    ),
    "an ordinary token without a row": (
        DataError,
        "the embedding has 257 rows, the tokenizer 258 tokens",
        lambda f: with_tokenizer_token(f, special=False),
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_what_is_not_harmless_is_refused_in_one_line_with_its_cause(
    folder: Path, name: str
) -> None:
    kind, words, spoil = CAUSES[name]
    spoil(folder)
    with pytest.raises(kind) as caught:
        read(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_whose_weights_are_not_finite_says_so(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["blocks.0.attention.qkv.weight"][0, 0] = torch.nan
    run = saved_run(tmp_path / "run", TINY, weights=weights)
    with pytest.raises(CheckpointError, match=r"run .*: blocks\.0\.attention\.qkv\.weight holds"):
        export(run, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("stored", "plain"),
    [
        ("transformer.h.0.ln_1.bias", "h.0.ln_1.bias"),
        ("module.transformer.h.0.ln_1.bias", "h.0.ln_1.bias"),
        ("my_module.weight", "my_module.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_a_wrapper_is_a_whole_part_of_a_name(stored: str, plain: str) -> None:
    assert plain_name(stored, "transformer.") == plain
