"""Transformers in and out: what leaves is what Transformers computes, what returns is what left."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor, nn

from lengthen import checkpoint
from lengthen.checkpoint import Tensors
from lengthen.corpus.tokenizer import resolve
from lengthen.disk import Disk
from lengthen.errors import (
    CheckpointError,
    DataError,
    LengthenError,
    MemoryLimitError,
    SettingError,
    StorageError,
)
from lengthen.exchange import tensors as exchange_tensors
from lengthen.exchange.export import NAMES, export
from lengthen.exchange.layout import Gpt2, is_transposed, parameter_shapes, their_name
from lengthen.exchange.pretrained import Pretrained, read, read_folder
from lengthen.model import GPT
from lengthen.order import sub_seed
from lengthen.recipes import RECIPES
from lengthen.runlog import RunPaths, read_metrics
from lengthen.runs import train
from lengthen.sample import sample
from lengthen.settings import build
from tests.conftest import SHARED, Configure

TINY = {"layers": 2, "width": 8, "heads": 2, "length": 16, "vocabulary": 257}
SAME_SHAPE = {name: RECIPES[name]() for name in RECIPES if not name.endswith("-baseline")}


def random_weights(model: dict[str, Any], seed: int = 0) -> Tensors:
    """Every parameter drawn, biases and gains too, so that no two could be swapped unseen."""
    generator = torch.Generator().manual_seed(sub_seed(seed, "test"))
    shapes = parameter_shapes(build_model_table(model))
    return {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}


def build_model_table(model: dict[str, Any]) -> Any:
    return build(tables(model)).model


def tables(model: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "pacing": {"kind": "constant"},
        "batch": {"rows": 1},
        "optimizer": {"learning_rate": 1e-3},
        "budget": {"tokens": "1M"},
    }


def saved_run(
    folder: Path, model: dict[str, Any], *, seed: int = 0, weights: Tensors | None = None
) -> Path:
    """A run of any shape with random weights, without the time to train it."""
    paths = RunPaths(folder)
    state = {"clock": {"step": 3, "tokens": 48}}
    groups = {"model": weights or random_weights(model, seed), "optimizer": {}}
    checkpoint.save(Disk(), paths.checkpoints, 3, groups, state)
    paths.config.write_text(build(tables(model)).to_toml(), encoding="utf-8")
    paths.tokenizer.write_text(resolve("bytes").to_str(), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of a tiny run."""
    export(saved_run(tmp_path / "run", TINY), tmp_path / "hf")
    return tmp_path / "hf"


# Out: what Transformers makes of it


def in_transformers(folder: Path) -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers", reason="transformers is a dev dependency")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    assert not any(info.values()), info  # missing, unexpected or mismatched keys, or errors
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    start = tokenizer(prompt, return_tensors="pt").input_ids
    made = model.generate(start, max_new_tokens=tokens, do_sample=False)
    text: str = tokenizer.decode(made[0, start.shape[1] :], skip_special_tokens=True)
    return text


@torch.no_grad()
def assert_alike(run: Path, folder: Path) -> None:
    """The same logits to 1e-5 in float32, and the same greedy text."""
    model, tokenizer = in_transformers(folder)
    ours = read(run)
    length, vocabulary = min(ours.shape.length, 64), model.config.vocab_size
    assert vocabulary == ours.shape.vocabulary
    ids = torch.randint(vocabulary, (2, length), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.gpt().logits(ids), model(ids).logits, rtol=1e-5, atol=1e-5)
    text = "".join(sample(run, prompt="It was a", tokens=12, temperature=0))
    assert greedy(model, tokenizer, "It was a", 12) == text


@pytest.mark.parametrize("recipe", SAME_SHAPE)
def test_an_export_is_the_same_model_in_transformers(tmp_path: Path, recipe: str) -> None:
    shape = SAME_SHAPE[recipe]["model"]
    # As narrow as its heads allow, and with an embedding that is padded as the paper's was.
    model = {**shape, "width": 2 * shape["heads"], "vocabulary": 320}
    weights = {name: 0.2 * tensor for name, tensor in random_weights(model).items()}
    run = saved_run(tmp_path / "run", model, weights=weights)
    export(run, tmp_path / "hf")
    assert load_file(tmp_path / "hf/model.safetensors")["transformer.wte.weight"].shape[0] == 257
    assert_alike(run, tmp_path / "hf")


def test_a_trained_run_is_the_same_model_in_transformers(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(budget={"tokens": 3000}), tmp_path / "run", shown=False)
    export(tmp_path / "run", tmp_path / "hf")
    assert_alike(tmp_path / "run", tmp_path / "hf")


def test_the_tokenizer_encodes_alike_in_transformers(folder: Path) -> None:
    ours, theirs = read(folder).tokenizer, in_transformers(folder)[1]
    text = "It was  a dark\n\tand stormy night; caf\N{LATIN SMALL LETTER E WITH ACUTE} \U0001f319"
    assert theirs(text).input_ids == ours.encode(text).ids
    assert theirs.decode(theirs(text).input_ids) == text
    assert theirs.eos_token_id == theirs.bos_token_id == 256


def test_a_float64_run_stays_float64(tmp_path: Path) -> None:
    weights = {name: tensor.double() for name, tensor in random_weights(TINY).items()}
    export(saved_run(tmp_path / "run", TINY, weights=weights), tmp_path / "hf")
    assert in_transformers(tmp_path / "hf")[0].dtype == torch.float64
    assert torch.equal(read(tmp_path / "hf").weights["norm.bias"], weights["norm.bias"])


def test_the_product_itself_never_imports_transformers() -> None:
    package = Path(exchange_tensors.__file__).parents[1]
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    assert not any("import transformers" in source for source in sources)
    assert not any("from transformers" in source for source in sources)


# Back in


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


def assert_same(before: Pretrained, after: Pretrained) -> None:
    assert after.shape == before.shape
    assert after.tokenizer_file == before.tokenizer_file
    assert after.weights.keys() == before.weights.keys()
    for name, tensor in before.weights.items():
        assert torch.equal(after.weights[name], tensor), name
        assert after.weights[name].is_contiguous()


def test_a_folder_samples_like_the_run_it_came_from(folder: Path) -> None:
    texts = [
        "".join(sample(path, prompt="the ", tokens=20, seed=3))
        for path in (folder, folder.parent / "run")
    ]
    assert texts[0] == texts[1]


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    file = folder / "model.safetensors"
    save_file({n: t.contiguous() for n, t in change(load_file(file)).items()}, file)
    return folder


def configured_as(folder: Path, **values: object) -> Path:
    described = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**described, **values}), encoding="utf-8")
    return folder


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


def sharded(folder: Path) -> Path:
    """The same weights in two files and an index."""
    weights = load_file(folder / "model.safetensors")
    halves = sorted(weights)[::2], sorted(weights)[1::2]
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for file, names in zip(files, halves, strict=True):
        save_file({name: weights[name] for name in names}, folder / file)
    places = {name: file for file, names in zip(files, halves, strict=True) for name in names}
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    (folder / "model.safetensors").unlink()
    return folder


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
    again = Tokenizer.from_buffer(found.tokenizer_file)
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
        "has no model.safetensors",
        lambda f: without_weights(f, "other"),
    ),
    "another architecture": (
        CheckpointError,
        "config.json: model_type: must be 'gpt2', got 'llama'",
        lambda f: configured_as(f, model_type="llama"),
    ),
    "no architecture": (
        CheckpointError,
        "config.json: model_type: is missing",
        lambda f: text(f, "config.json", "{}"),
    ),
    "tied head off": (
        CheckpointError,
        "tie_word_embeddings: must be True, got False",
        lambda f: configured_as(f, tie_word_embeddings=False),
    ),
    "another head": (CheckpointError, "is not tied", lambda f: rewritten(f, untied)),
    "another activation": (
        CheckpointError,
        "activation_function: must be 'gelu_new', 'gelu_pytorch_tanh' or 'gelu_fast', got 'gelu'",
        lambda f: configured_as(f, activation_function="gelu"),
    ),
    "another norm": (
        CheckpointError,
        "layer_norm_epsilon: must be 1e-05, got 1e-06",
        lambda f: configured_as(f, layer_norm_epsilon=1e-6),
    ),
    "another scale of attention": (
        CheckpointError,
        "scale_attn_by_inverse_layer_idx: must be False, got True",
        lambda f: configured_as(f, scale_attn_by_inverse_layer_idx=True),
    ),
    "a wider perceptron": (
        CheckpointError,
        "n_inner: must be 4 times n_embd, or null, got 64",
        lambda f: configured_as(f, n_inner=64),
    ),
    "dropouts that differ": (
        CheckpointError,
        "resid_pdrop: must equal embd_pdrop and attn_pdrop, got 0.0",
        lambda f: configured_as(f, attn_pdrop=0.1),
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
    "a tensor twice": (
        CheckpointError,
        "holds 'ln_f.bias' twice",
        lambda f: rewritten(f, lambda weights: {**weights, "ln_f.bias": torch.zeros(8)}),
    ),
    "whole numbers for weights": (
        CheckpointError,
        "as I64, must be F64, F32, F16, BF16",
        lambda f: rewritten(f, lambda w: {name: t.long() for name, t in w.items()}),
    ),
    "a config.json that is none": (
        CheckpointError,
        "config.json: Invalid JSON",
        lambda f: text(f, "config.json", "{"),
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
        "model-00001-of-00002.safetensors cannot be read",
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
        "has no <|endoftext|> token",
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


def test_more_weights_than_memory_are_refused_before_they_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_tensors, "cpu_memory_limit", lambda: 1000)
    monkeypatch.setattr(exchange_tensors.Stored, "load", lambda _: pytest.fail("was loaded"))
    with pytest.raises(MemoryLimitError, match="its weights take 15776 bytes, 1000 are free"):
        read(folder)


def assert_refused_or_read(folder: Path) -> None:
    """Whatever a folder holds: a model, or one line that says why not."""
    message = ""
    try:
        read(folder).gpt()
    except LengthenError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000


WORDS = st.sampled_from(["gpt2", "gelu_new", "gelu", "llama", "", "\n\x1b[31m", "1e5", "x" * 3000])
NUMBERS = st.integers(-3, 40) | st.sampled_from([2**20, 2**31, 2**64, 10**30]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=4,
)
FIELDS = st.sampled_from(list(Gpt2.model_fields))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that nobody spoils."""
    place = tmp_path_factory.mktemp("good")
    export(saved_run(place / "run", TINY), place / "hf")
    return place / "hf"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Path:
    """A copy of which one file is written anew for every example."""
    return Path(shutil.copytree(good, tmp_path_factory.mktemp("scratch") / "hf"))


@hypothesis_settings(max_examples=300)
@given(fields=st.dictionaries(FIELDS, VALUES, min_size=1, max_size=4))
def test_no_value_in_config_json_is_a_crash(
    good: Path, scratch: Path, fields: dict[str, object]
) -> None:
    described = json.loads((good / "config.json").read_bytes())
    data = json.dumps({**described, **fields})
    (scratch / "config.json").write_text(data, encoding="utf-8")
    assert_refused_or_read(scratch)


@hypothesis_settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_no_bytes_for_config_json_are_a_crash(scratch: Path, data: bytes) -> None:
    (scratch / "config.json").write_bytes(data)
    assert_refused_or_read(scratch)


@pytest.fixture(scope="module")
def weights_only(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path_factory.mktemp("weights") / "hf"))


def with_header(data: bytes, header: bytes, size: int | None = None) -> bytes:
    """Replace the header of a safetensors file, and let it claim a size."""
    end = 8 + int.from_bytes(data[:8], "little")
    claimed = len(header) if size is None else size
    return claimed.to_bytes(8, "little") + header + data[end:]


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "BF16", "I8", "F8_E4M3", "x", 3, None]),
        "shape": st.lists(st.integers(-1, 9) | st.sampled_from([2**31, 2**63, 2**70]), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 300) | st.just(2**63), min_size=1, max_size=3),
    },
)


@hypothesis_settings(max_examples=200)
@given(
    name=st.sampled_from(["transformer.wte.weight", "wte.weight", "../x", "", "h.0.attn.bias"]),
    entry=ENTRIES | VALUES,
    size=st.none() | st.sampled_from([0, 1, 2**20, 2**31, 2**63, 2**64 - 1]),
)
def test_no_header_of_the_weights_is_a_crash(
    good: Path, weights_only: Path, name: str, entry: object, size: int | None
) -> None:
    data = (good / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    old = header.get(name, {})
    header[name] = {**old, **entry} if isinstance(entry, dict) else entry
    forged = with_header(data, json.dumps(header).encode(), size)
    (weights_only / "model.safetensors").write_bytes(forged)
    assert_refused_or_read(weights_only)


@hypothesis_settings(max_examples=200)
@given(data=st.data())
def test_no_cut_and_no_changed_byte_of_the_weights_is_a_crash(
    good: Path, weights_only: Path, data: st.DataObject
) -> None:
    whole = bytearray((good / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(whole)) | st.integers(0, len(whole)))
    (weights_only / "model.safetensors").write_bytes(whole[:end])
    assert_refused_or_read(weights_only)


# Writing


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_export_has_six_files_and_a_card_with_the_facts(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(budget={"tokens": 3000})
    train(config, tmp_path / "run", shown=False)
    name, notes = export(tmp_path / "run", tmp_path / "hf")
    assert {path.name for path in (tmp_path / "hf").iterdir()} == NAMES
    evaluations = read_metrics(tmp_path / "run/metrics.jsonl").of("eval")
    text = (tmp_path / "hf/README.md").read_text(encoding="utf-8")
    step = int(name.removeprefix("step-"))
    for fact in (
        f"| steps | {step:,} |",
        f"| trained tokens | {evaluations[-1]['tokens']:,} |",
        f"| final validation loss | {evaluations[-1]['loss']:.4f} nats per token, at full length",
        "| pacing | kind linear, start 8, end 64, duration 12, multiple 8 |",
        f"torch {torch.__version__}",
        "learning_rate = 0.01",
        "Licence",
    ):
        assert fact in text
    assert not notes
    # Where the store lies is nobody's business, and nor is this machine.
    assert str(config.data.path) not in text


def test_an_older_checkpoint_is_exported_with_its_own_loss(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(budget={"tokens": 3000}), tmp_path / "run", shown=False)
    assert export(tmp_path / "run", tmp_path / "hf", name="step-00000006")[0] == "step-00000006"
    text = (tmp_path / "hf/README.md").read_text(encoding="utf-8")
    assert "| steps | 6 |" in text
    assert "after step 5 |" in text
    with pytest.raises(CheckpointError, match="not in"):
        export(tmp_path / "run", tmp_path / "other", name="step-00000999")
    assert not (tmp_path / "other").exists()


def test_a_damaged_checkpoint_is_passed_over_and_named(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(budget={"tokens": 1000}), tmp_path / "run", shown=False)
    newest, older = checkpoint.listed(tmp_path / "run/checkpoints")[:2]
    (newest / "model.safetensors").write_bytes(b"")
    name, notes = export(tmp_path / "run", tmp_path / "hf")
    assert name == older.name
    assert newest.name in notes[0]


@pytest.mark.parametrize("strange", ["x|y", "a\n# b", "<script>", "\x1b[31m"])
def test_a_runs_name_cannot_leave_its_place_in_the_card(tmp_path: Path, strange: str) -> None:
    export(saved_run(tmp_path / strange.replace("/", ""), TINY), tmp_path / "hf")
    text = (tmp_path / "hf/README.md").read_text(encoding="utf-8")
    assert strange not in text
    assert text.count("\n# ") == 1


def test_an_old_export_is_replaced_only_when_asked(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    other = saved_run(tmp_path / "other", TINY, seed=1)
    with pytest.raises(SettingError, match="--out: is not empty"):
        export(other, folder)
    assert contents(folder) == before
    export(other, folder, overwrite=True)
    assert_same(read(other), read(folder))


def test_a_folder_that_holds_anything_else_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    export(tmp_path / "run", tmp_path / "whole")
    (tmp_path / "link").symlink_to(tmp_path / "whole", target_is_directory=True)
    (folder / "LICENSE").write_text("mine", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    before = contents(tmp_path)
    for out in (folder, tmp_path / "link", tmp_path / "file", tmp_path / "run"):
        with pytest.raises(SettingError, match="--out"):
            export(tmp_path / "run", out, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_fault_at_every_single_operation_leaves_a_whole_export_or_none(
    tmp_path: Path, overwrite: bool
) -> None:
    runs = [saved_run(tmp_path / f"run{seed}", TINY, seed=seed) for seed in (0, 1)]
    whole = [read(run).weights["tokens.weight"] for run in runs]
    for fault in range(1, 100):
        out = tmp_path / f"out{fault}" / "hf"
        if overwrite:
            export(runs[0], out)

        def fail(number: int, name: str, path: Path, at: int = fault) -> None:
            if number == at:
                raise OSError(errno.ENOSPC, "full")

        disk = Disk(before=fail)
        try:
            export(runs[1], out, overwrite=overwrite, disk=disk)
        except StorageError:
            if out.exists():
                found = read(out).weights["tokens.weight"]
                assert any(torch.equal(found, one) for one in whole)
            else:
                assert not overwrite
                assert not list(tmp_path.glob(f"out{fault}/*"))
        else:
            break
    assert fault > 10
    assert torch.equal(read(out).weights["tokens.weight"], whole[1])
    assert [path.name for path in out.parent.iterdir()] == ["hf"]


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    weights = random_weights({**TINY, "layers": 1})
    run = saved_run(tmp_path / "run", TINY, weights=weights)
    with pytest.raises(SettingError, match="step-00000003 lacks blocks.1"):
        export(run, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


# The layout itself


def test_every_parameter_has_a_shape_and_a_name_of_its_own() -> None:
    model = build_model_table({**TINY, "layers": 3})
    gpt = GPT(**model.model_dump())
    shapes = {name: tuple(parameter.shape) for name, parameter in gpt.named_parameters()}
    assert parameter_shapes(model) == shapes
    assert len({their_name(name) for name in shapes}) == len(shapes)
    linear = {f"{name}.weight" for name, part in gpt.named_modules() if type(part) is nn.Linear}
    assert {name for name in shapes if is_transposed(name)} == linear
