"""What leaves is what Transformers computes, and every parameter has its place there."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lengthen.config.recipes import RECIPES
from lengthen.evaluation.generate import sample
from lengthen.exchange import tensors as exchange_tensors
from lengthen.exchange.architectures import GPT2
from lengthen.exchange.export import export
from lengthen.exchange.layout import is_transposed, parameter_shapes, their_names
from lengthen.exchange.pretrained import read
from lengthen.model.gpt import GPT
from lengthen.training.start import train
from lengthen.util.errors import SettingError
from tests.conftest import Configure
from tests.exchange.made import TINY, contents, model_of, random_weights, saved_run

ARCHITECTURES = {name: RECIPES[name]() for name in RECIPES if not name.endswith("-baseline")}


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


@pytest.mark.parametrize("recipe", ARCHITECTURES)
def test_an_export_is_the_same_model_in_transformers(tmp_path: Path, recipe: str) -> None:
    shape = ARCHITECTURES[recipe]["model"]
    # As narrow as its heads allow, and with an embedding that is padded as the paper's was.
    model = {**shape, "width": 2 * shape["heads"], "vocabulary": 320}
    weights = {name: 0.2 * tensor for name, tensor in random_weights(model).items()}
    run = saved_run(tmp_path / "run", model, weights=weights)
    export(run, tmp_path / "hf")
    stored = load_file(tmp_path / "hf/model.safetensors")
    embedding = {"transformer.wte.weight", "model.embed_tokens.weight"} & stored.keys()
    assert [len(stored[name]) for name in embedding] == [257]
    assert_alike(run, tmp_path / "hf")


def test_a_trained_run_is_the_same_model_in_transformers(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(budget={"tokens": 3000}), tmp_path / "run", quiet=True)
    export(tmp_path / "run", tmp_path / "hf")
    assert_alike(tmp_path / "run", tmp_path / "hf")


def test_the_tokenizer_encodes_alike_in_transformers(folder: Path) -> None:
    ours, theirs = read(folder).tokenizer, in_transformers(folder)[1]
    text = "It was  a dark\n\tand stormy night; caf\N{LATIN SMALL LETTER E WITH ACUTE} \U0001f319"
    assert theirs(text).input_ids == ours.encode(text).ids
    assert theirs.decode(theirs(text).input_ids) == text
    assert theirs.eos_token_id == theirs.bos_token_id == 256


def test_what_transformers_saved_is_no_earlier_export(folder: Path, tmp_path: Path) -> None:
    """A model that was tuned there has the names of an export, in its place or beside it."""
    shutil.copytree(folder, tmp_path / "beside")
    for name in ("README.md", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "beside" / name).unlink()
    for place in (folder, tmp_path / "beside"):
        for saved in in_transformers(folder):
            saved.save_pretrained(place)
        before = contents(place)
        with pytest.raises(SettingError, match="--out: .* is no exported model"):
            export(tmp_path / "run", place, overwrite=True)
        assert contents(place) == before


def test_a_float64_run_stays_float64(tmp_path: Path) -> None:
    weights = {name: tensor.double() for name, tensor in random_weights(TINY).items()}
    export(saved_run(tmp_path / "run", TINY, weights=weights), tmp_path / "hf")
    assert in_transformers(tmp_path / "hf")[0].dtype == torch.float64
    assert torch.equal(read(tmp_path / "hf").weights["norm.bias"], weights["norm.bias"])


def test_only_the_plug_for_its_trainer_imports_transformers() -> None:
    package = Path(exchange_tensors.__file__).parents[1]
    importing = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) transformers", path.read_text(encoding="utf-8"), re.M)
    }
    assert importing == {"integrations/transformers.py"}


def test_every_parameter_has_a_shape_and_a_name_of_its_own() -> None:
    model = model_of({**TINY, "layers": 3})
    gpt = GPT(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in gpt.named_parameters()}
    assert parameter_shapes(model) == shapes
    assert len({their_names(GPT2, name) for name in shapes}) == len(shapes)
    linear = {f"{name}.weight" for name, part in gpt.named_modules() if type(part) is nn.Linear}
    assert {name for name in shapes if is_transposed(GPT2, name)} == linear
