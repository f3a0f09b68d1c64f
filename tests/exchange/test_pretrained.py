"""What returns is what left, and what a folder says that is not so is refused in one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from torch import Tensor

from lengthen.evaluation.generate import sample
from lengthen.exchange.export import export
from lengthen.exchange.pretrained import read, read_folder
from lengthen.util.errors import (
    CheckpointError,
    DataError,
    LengthenError,
    SettingError,
)
from tests.conftest import SHARED
from tests.exchange.made import assert_same, configured_as, rewritten, saved_run, sharded


@hypothesis_settings(max_examples=20)
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    head_size=st.integers(1, 4),
    length=st.integers(1, 9),
    seed=st.integers(0, 99),
    dropout=st.sampled_from([0.0, 0.1]),
)
def test_what_was_exported_comes_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    layers: int,
    heads: int,
    head_size: int,
    length: int,
    seed: int,
    dropout: float,
) -> None:
    place = tmp_path_factory.mktemp("round")
    model = {"layers": layers, "heads": heads, "width": heads * head_size, "length": length}
    run = saved_run(place / "run", {**model, "vocabulary": 257, "dropout": dropout}, seed=seed)
    export(run, place / "hf")
    before, after = read(run), read_folder(place / "hf")
    assert_same(before, after)


def test_a_folder_samples_like_the_run_it_came_from(folder: Path) -> None:
    texts = [
        "".join(sample(path, prompt="the ", tokens=20, seed=3))
        for path in (folder, folder.parent / "run")
    ]
    assert texts[0] == texts[1]


def test_the_masks_and_short_names_of_published_folders_are_read(folder: Path) -> None:
    before = read(folder)

    def published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        short = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
        masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 16, 16).tril() for i in range(2)}
        return {**short, **masks, "lm_head.weight": short["wte.weight"].clone()}

    assert_same(before, read(rewritten(folder, published)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_without_loss(folder: Path, dtype: torch.dtype) -> None:
    rewritten(folder, lambda weights: {name: one.to(dtype) for name, one in weights.items()})
    stored = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    assert stored.dtype == dtype
    assert torch.equal(read(folder).weights["tokens.weight"], stored.float())


def test_a_padded_embedding_is_cut_to_the_tokenizer(folder: Path) -> None:
    before = read(folder)
    padding = torch.full((63, 8), 9.0)
    name = "transformer.wte.weight"
    rewritten(folder, lambda weights: {**weights, name: torch.cat([weights[name], padding])})
    assert_same(before, read(configured_as(folder, vocab_size=320)))


def test_a_sharded_folder_is_read_whole(folder: Path) -> None:
    before = read(folder)
    assert_same(before, read(sharded(folder)))


def test_the_links_of_the_hubs_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert_same(read(folder), read(snapshot))


def test_gpt2s_own_two_tokenizer_files_are_enough(folder: Path) -> None:
    source = SHARED / "gpt2-bpe"
    if not source.is_dir():
        pytest.skip("needs GPT-2's vocabulary, which a clone lacks")
    (folder / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / name, folder / name)
    name = "transformer.wte.weight"
    rewritten(folder, lambda weights: {**weights, name: torch.randn(50304, 8)})
    found = read(configured_as(folder, vocab_size=50304))
    assert found.shape.vocabulary == 50257
    assert found.tokenizer.encode("Hello world").ids == [15496, 995]
    again = Tokenizer.from_buffer(found.text.files()["tokenizer.json"])
    assert again.encode("Hello world").ids == [15496, 995]


# What a folder says that is not so


def without_weights(folder: Path, name: str) -> Path:
    (folder / "model.safetensors").rename(folder / name)
    return folder


def text(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder


def pipe(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    return folder


def shard_elsewhere(folder: Path) -> Path:
    sharded(folder)
    index = json.dumps({"weight_map": {"transformer.wte.weight": "../run/model.safetensors"}})
    return text(folder, "model.safetensors.index.json", index)


def untied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "lm_head.weight": weights["transformer.wte.weight"] + 1}


def less(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {other: weights[other] for other in weights if other != name}


MISTAKES: dict[str, tuple[type[LengthenError], str, Callable[[Path], object]]] = {
    "only pickle": (
        CheckpointError,
        "only as pickle ('pytorch_model.bin')",
        lambda f: without_weights(f, "pytorch_model.bin"),
    ),
    "no weights": (
        CheckpointError,
        "has neither model.safetensors nor model.safetensors.index.json",
        lambda f: without_weights(f, "other"),
    ),
    "another architecture": (
        CheckpointError,
        "model_type: must be 'gpt2' or 'llama' or 'qwen3', got 'qwen2'; did you mean 'qwen3'?",
        lambda f: configured_as(f, model_type="qwen2"),
    ),
    "no architecture": (
        CheckpointError,
        "config.json: model_type: must be 'gpt2' or 'llama' or 'qwen3'",
        lambda f: text(f, "config.json", "{}"),
    ),
    "tied head off": (
        CheckpointError,
        "lacks lm_head.weight, by its config.json",
        lambda f: configured_as(f, tie_word_embeddings=False),
    ),
    "another head": (CheckpointError, "is not tied", lambda f: rewritten(f, untied)),
    "another activation": (
        CheckpointError,
        '"gelu_pytorch_tanh" or "gelu_fast" or "gelu_accurate", got \'gelu\'',
        lambda f: configured_as(f, activation_function="gelu"),
    ),
    "a norm without epsilon": (
        CheckpointError,
        "layer_norm_epsilon: must be above 0, got 0.0",
        lambda f: configured_as(f, layer_norm_epsilon=0.0),
    ),
    "another scale of attention": (
        CheckpointError,
        "scale_attn_by_inverse_layer_idx: must be false, got True",
        lambda f: configured_as(f, scale_attn_by_inverse_layer_idx=True),
    ),
    "a wider perceptron than that of the weights": (
        CheckpointError,
        "has h.0.mlp.c_fc.bias of shape (32,), must be (64,), by its config.json",
        lambda f: configured_as(f, n_inner=64),
    ),
    "heads that do not divide": (
        CheckpointError,
        "n_head: must divide model.width (8), got 3",
        lambda f: configured_as(f, n_head=3),
    ),
    "no layers": (
        CheckpointError,
        "n_layer: must be at least 1, got 0",
        lambda f: configured_as(f, n_layer=0),
    ),
    "more than any layers": (
        CheckpointError,
        "n_layer: must be at most 1024, got 10000",
        lambda f: configured_as(f, n_layer=10**4),
    ),
    "a number as text": (
        CheckpointError,
        "n_embd: must be a whole number, got '8'",
        lambda f: configured_as(f, n_embd="8"),
    ),
    "more layers than weights": (
        CheckpointError,
        "lacks h.2.attn.c_attn.bias",
        lambda f: configured_as(f, n_layer=3),
    ),
    "fewer layers than weights": (
        CheckpointError,
        "holds 'h.1.attn.c_attn.bias', which is no part of this model",
        lambda f: configured_as(f, n_layer=1),
    ),
    "another length": (
        CheckpointError,
        "has wpe.weight of shape (16, 8), must be (32, 8)",
        lambda f: configured_as(f, n_positions=32),
    ),
    "a missing tensor": (
        CheckpointError,
        "lacks ln_f.bias",
        lambda f: rewritten(f, less("transformer.ln_f.bias")),
    ),
    "a strange tensor": (
        CheckpointError,
        "holds '../x'",
        lambda f: rewritten(f, lambda weights: {**weights, "../x": torch.zeros(1)}),
    ),
    "a config.json that is none": (
        CheckpointError,
        "config.json: Invalid JSON",
        lambda f: text(f, "config.json", "{"),
    ),
    "a config.json whose mistake has a brace in its name": (
        CheckpointError,
        "config.json: Invalid JSON: expected `,` or `}`",
        lambda f: text(f, "config.json", '{"a": 1 2'),
    ),
    "a thousand brackets": (
        CheckpointError,
        "config.json: Invalid JSON",
        lambda f: text(f, "config.json", "[" * 100_000),
    ),
    "a huge config.json": (
        DataError,
        "must be at most 1048576 bytes",
        lambda f: text(f, "config.json", " " * (2**20 + 1)),
    ),
    "a pipe": (CheckpointError, "model.safetensors must be a regular file", pipe),
    "empty weights": (
        CheckpointError,
        "model.safetensors cannot be read",
        lambda f: text(f, "model.safetensors", ""),
    ),
    "a shard elsewhere": (CheckpointError, "names '../run/model.safetensors'", shard_elsewhere),
    "a shard that is not there": (
        CheckpointError,
        "1 of 2 files that model.safetensors.index.json names are missing: model-00001-of-00002",
        lambda f: (sharded(f) / "model-00001-of-00002.safetensors").unlink(),
    ),
    "an index that is none": (
        CheckpointError,
        "model.safetensors.index.json cannot be used",
        lambda f: text(sharded(f), "model.safetensors.index.json", '{"weight_map": [7]}'),
    ),
    "an empty index": (
        CheckpointError,
        "model.safetensors.index.json names no file",
        lambda f: text(sharded(f), "model.safetensors.index.json", '{"weight_map": {}}'),
    ),
    "no tokenizer": (
        SettingError,
        "the folder must hold tokenizer.json",
        lambda f: (f / "tokenizer.json").unlink(),
    ),
    "a tokenizer that is none": (
        DataError,
        "not a tokenizer.json",
        lambda f: text(f, "tokenizer.json", "{}"),
    ),
    "a tokenizer without any token": (
        DataError,
        "has none of <|endoftext|>, ",
        lambda f: text(f, "tokenizer.json", Tokenizer(models.BPE()).to_str()),
    ),
    "a tokenizer with more tokens than rows": (
        DataError,
        "the embedding has 200 rows, the tokenizer 257 tokens",
        lambda f: rewritten(
            configured_as(f, vocab_size=200),
            lambda w: {n: t[:200] if "wte" in n else t for n, t in w.items()},
        ),
    ),
    "a tokenizer of another model": (
        DataError,
        "the embedding has 5000 rows, the tokenizer 257 tokens",
        lambda f: rewritten(
            configured_as(f, vocab_size=5000),
            lambda w: {n: torch.zeros(5000, 8) if "wte" in n else t for n, t in w.items()},
        ),
    ),
    "no folder": (SettingError, "must be a run", lambda f: shutil.rmtree(f)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_folder_that_is_no_gpt2_of_ours_is_refused_in_one_line(folder: Path, name: str) -> None:
    kind, words, spoil = MISTAKES[name]
    spoil(folder)
    with pytest.raises(kind) as caught:
        read(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
