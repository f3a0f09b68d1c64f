"""Llama, Qwen3 and GPT-2 go to Transformers and come back, and what they cannot say is refused."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from lengthen.checkpoint.verify import list_checkpoints
from lengthen.cli.main import main
from lengthen.data.tokenizer import resolve
from lengthen.exchange.architectures import ARCHITECTURES
from lengthen.exchange.export import export
from lengthen.exchange.layout import parameter_shapes, their_names
from lengthen.exchange.pretrained import read
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.start import resume
from lengthen.util.errors import SettingError
from tests.conftest import SHARED
from tests.exchange.made import (
    assert_same,
    configured_as,
    contents,
    model_of,
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
    "qwen3 of wide heads": ("qwen3", {**QWEN3, "head_width": 8}),
    "llama of narrow heads": ("llama", {**LLAMA, "head_width": 2, "bias": True}),
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
    "qwen3 of wide heads": ("qwen3", {**GATED, "head_dim": 8}),
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


# Trained on


@pytest.mark.parametrize("name", ["llama with biases", "tied qwen3", "gpt2 with a head"])
def test_an_imported_model_trains_on_by_a_length_warmup_and_resumes_exactly(
    tmp_path: Path, text: str, name: str
) -> None:
    their_own(tmp_path / "hf", THEIRS[name][0], **THEIRS[name][1])
    (tmp_path / "a.txt").write_text(text * 9, encoding="utf-8")
    folder, store, run = (str(tmp_path / place) for place in ("hf", "store", "run"))
    source = str(tmp_path / "a.txt")
    assert main(["prepare", source, "--tokenizer", folder, "--out", store, "--valid", "0.1"]) == 0
    settings = {
        "pacing.start": "8",
        "pacing.duration": "4",
        "budget.tokens": "600",
        "batch.rows": "4",
        "saving.every_steps": "1",
        "saving.keep": "9",
        "evaluation.every_tokens": "0",
    }
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    trained_by = ["--data", store, "--recipe", "laptop-2min", *options]
    assert main(["import", folder, "--out", run, *trained_by]) == 0
    before = read(Path(run)).weights
    assert resume(run, quiet=True).tokens > 500
    steps = read_metrics(RunPaths(Path(run)).metrics).steps
    assert (steps[0].length, steps[-1].length) == (8, 32)
    end = list_checkpoints(RunPaths(Path(run)).checkpoints)[0].name
    after = read(Path(run), end).weights
    assert not torch.equal(after["tokens.weight"], before["tokens.weight"])
    shutil.copytree(run, tmp_path / "again")
    resume(tmp_path / "again", checkpoint="step-00000003", quiet=True)
    again = read(tmp_path / "again", end).weights
    assert all(torch.equal(again[key], tensor) for key, tensor in after.items())
    export(Path(run), tmp_path / "out")
    ids = torch.randint(257, (2, 33), generator=torch.Generator().manual_seed(0))
    loss, its_loss = losses(read(Path(run)).gpt(), opened(tmp_path / "out"), ids)
    assert loss == pytest.approx(its_loss, abs=1e-5)
    data = ["--tasks", "valid", "--data", store]
    assert main(["eval", run, str(tmp_path / "out"), *data, "--out", str(tmp_path / "r.json")]) == 0
    measured = json.loads((tmp_path / "r.json").read_bytes())
    assert len({json.dumps(one["outcome"]["measures"]) for one in measured["results"]}) == 1


# What a format cannot say

NO_LLAMA: dict[str, tuple[dict[str, Any], str]] = {
    "learned positions": ({"positions": "learned"}, 'positions: must be "rope" for Llama'),
    "LayerNorm": ({"norm": "layer"}, 'norm: must be "rms" for Llama'),
    "GELU": ({"mlp": "gelu"}, 'mlp: must be "swiglu" for Llama'),
    "QK-norm beside biases": (
        {"qk_norm": True, "norm_eps": 1e-6, "bias": True},
        "bias: must be false for Qwen3",
    ),
    "QK-norm of another epsilon": ({"qk_norm": True}, "norm_eps: must be 1e-06 for Qwen3"),
    "QK-norm of learned positions": (
        {"qk_norm": True, "positions": "learned", "norm_eps": 1e-6},
        'positions: must be "rope" for Qwen3',
    ),
}


@pytest.mark.parametrize("name", NO_LLAMA)
def test_a_model_that_is_none_of_theirs_is_refused_by_the_nearest(
    tmp_path: Path, name: str
) -> None:
    switch, rule = NO_LLAMA[name]
    run = saved_run(tmp_path / "run", {**LLAMA, **switch})
    with pytest.raises(SettingError, match=f"^model.{rule}, which has no other, got "):
        export(run, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_dropout_that_llama_lacks_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved_run(tmp_path / "run", {**LLAMA, "dropout": 0.1})
    assert main(["export", str(run), "--out", str(tmp_path / "hf")]) == 0
    assert "model.dropout is 0.1; Llama has none" in capsys.readouterr().err
    assert opened(tmp_path / "hf").config.attention_dropout == 0.0
    assert read(tmp_path / "hf").shape.dropout == 0.0


def exported(place: Path, name: str = "llama with biases") -> Path:
    export(saved_run(place / "run", MODELS[name][1]), place / "hf")
    return place / "hf"


SAME: dict[str, dict[str, Any]] = {
    "of version 5": {"rope_theta": None, "rope_parameters": {"rope_theta": 1e4}},
    "of version 5, with its kind": {
        "rope_theta": 9.0,
        "rope_parameters": {"rope_theta": 10000, "rope_type": "default"},
    },
    "of version 4": {"rope_scaling": None},
    "another name of SiLU": {"hidden_act": "swish"},
    "a head's width that follows": {"head_dim": None},
    "all of the head": {"partial_rotary_factor": 1.0},
    "caches": {"use_cache": False, "pretraining_tp": 1, "_attn_implementation": "sdpa"},
}


@pytest.mark.parametrize("name", SAME)
def test_what_two_versions_write_is_one_model(tmp_path: Path, name: str) -> None:
    folder = exported(tmp_path)
    before = read(folder)
    assert_same(before, read(configured_as(folder, **SAME[name])))


def test_the_angles_that_old_folders_store_are_no_weights(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    before = read(folder)
    angles = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(2) for n in (0, 1)}
    assert_same(before, read(rewritten(folder, lambda w: {**w, **angles})))


def test_a_padded_head_is_cut_with_its_embedding(tmp_path: Path) -> None:
    folder = exported(tmp_path, "qwen3")
    before = read(folder)

    def padded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tables = ("model.embed_tokens.weight", "lm_head.weight")
        return {n: torch.cat([w, w[:63]]) if n in tables else w for n, w in weights.items()}

    assert_same(before, read(configured_as(rewritten(folder, padded), vocab_size=320)))


def config(words: str, **values: object) -> tuple[str, Callable[[Path], object]]:
    return f"config.json: {words}", lambda folder: configured_as(folder, **values)


def tensors(words: str, **values: Any) -> tuple[str, Callable[[Path], object]]:
    """Tensors that take the place of those, None for none."""

    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        changed = {f"model.layers.1.self_attn.{name}.weight": one for name, one in values.items()}
        return {name: one for name, one in {**weights, **changed}.items() if one is not None}

    return words, lambda folder: rewritten(folder, change)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


REFUSED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a neighbour": config("model_type: must be .*; did you mean 'qwen3'", model_type="qwen2"),
    "a stranger": config("model_type: must be 'gpt2' or 'llama' or 'qwen3'", model_type="bert"),
    "GELU": config('hidden_act: must be "silu" or "swish", got \'gelu\'', hidden_act="gelu"),
    "dropout": config("attention_dropout: must be 0.0, got 0.1", attention_dropout=0.1),
    "Llama 3's positions": config(
        'rope_type: must be null or "default", got .llama3.',
        rope_scaling={"factor": 8.0, "rope_type": "llama3"},
    ),
    "stretched positions": config(
        'type: must be null or "default", got .linear.', rope_scaling={"type": "linear"}
    ),
    "YaRN": config("rope_type: must be", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
    "positions by kind of layer": config(
        "full_attention: must be null", rope_parameters={"full_attention": {"rope_theta": 1e4}}
    ),
    "half of the head": config(
        "partial_rotary_factor: must be null or 1.0, got 0.5", partial_rotary_factor=0.5
    ),
    "half of the head, in version 5": config(
        "partial_rotary_factor: must be", rope_parameters={"partial_rotary_factor": 0.5}
    ),
    "a window": config("sliding_window: must be null, got 8", sliding_window=8),
    "biases in a half": config("mlp_bias: must be true, got False", mlp_bias=False),
    "another width of heads": (
        r"layers.0.self_attn.k_proj.bias of shape \(8,\), must be \(16,\)",
        lambda folder: configured_as(folder, head_dim=8),
    ),
    "odd heads": config(
        "head_dim: must give heads an even width for rotary positions, got 3", head_dim=3
    ),
    "keys that do not divide": config(
        "num_key_value_heads: must divide model.heads", num_key_value_heads=3
    ),
    "text for a number": config("rope_theta: must be a number, got '1e4'", rope_theta="1e4"),
    "a missing tensor": tensors("lacks layers.1.self_attn.v_proj.weight", v_proj=None),
    "a tensor too many": tensors(
        "holds 'layers.1.self_attn.q_norm.weight', which is no part", q_norm=torch.ones(4)
    ),
    "another shape": tensors(
        r"has layers.1.self_attn.k_proj.weight of shape \(16, 16\), must be \(8, 16\)",
        k_proj=torch.ones(16, 16),
    ),
    "not finite": tensors("self_attn.k_proj.weight .*are not finite", k_proj=torch.ones(8, 16) / 0),
    "cut off": ("model.safetensors is cut off", cut),
}
QWEN_REFUSED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "windows": config("use_sliding_window: must be false", use_sliding_window=True),
    "kinds of layers": config(
        'layer_types: must be null or "full_attention"',
        layer_types=["full_attention", "sliding_attention"],
    ),
    "another epsilon": config("rms_norm_eps: must be 1e-06, got 1e-05", rms_norm_eps=1e-5),
    "biases": config("attention_bias: must be false, got True", attention_bias=True),
    "a tied head that differs": config(
        "|lm_head.weight is not tied to the embedding", tie_word_embeddings=True
    ),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("llama with biases", n) for n in REFUSED), *(("qwen3", n) for n in QWEN_REFUSED)],
)
def test_a_folder_that_we_do_not_compute_is_refused_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str
) -> None:
    rule, spoil = (QWEN_REFUSED if kind == "qwen3" else REFUSED)[name]
    folder = exported(tmp_path, kind)
    spoil(folder)
    assert main(["import", str(folder), "--out", str(tmp_path / "back")]) == 4
    error = capsys.readouterr().err
    assert re.search(rule, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "back").exists()


def test_every_parameter_has_a_name_of_its_own_in_each_architecture() -> None:
    for kind, model in MODELS.values():
        shapes = parameter_shapes(model_of(model))
        names = [one for ours in shapes for one in their_names(ARCHITECTURES[kind], ours)]
        assert len(set(names)) == len(names) >= len(shapes)
