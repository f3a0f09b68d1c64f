"""Text from a model: whatever was asked, it is text or one line."""

from pathlib import Path

import pytest
import torch

from lengthen.cli.main import main
from lengthen.evaluation.sample import sample
from lengthen.exchange.export import export
from lengthen.run.directory import RunPaths
from lengthen.util.errors import CheckpointError
from tests.data.small_tokenizers import llama
from tests.exchange.made import TINY, random_weights, rewritten, saved_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sampled")
    export(saved_run(place / "run", TINY), place / "hf")
    return place / "hf"


def text_of(folder: Path, *, temperature: float, top_k: int = 50) -> str:
    pieces = sample(folder, prompt="the ", tokens=8, temperature=temperature, top_k=top_k)
    return "".join(pieces)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-45, 1e-12])
def test_a_temperature_near_nothing_gives_the_likeliest(folder: Path, temperature: float) -> None:
    assert text_of(folder, temperature=temperature) == text_of(folder, temperature=0)


@pytest.mark.parametrize("temperature", [1e12, 1e39, 1e300, 1.7e308])
def test_a_huge_temperature_makes_all_tokens_alike(folder: Path, temperature: float) -> None:
    assert text_of(folder, temperature=temperature, top_k=0) == text_of(
        folder, temperature=1e9, top_k=0
    )


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_logits_that_are_not_finite_are_one_line_and_no_text(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], temperature: str
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    rewritten(tmp_path, lambda w: {name: one * 1e20 for name, one in w.items()})
    words = ["sample", str(tmp_path), "--prompt", "the ", "--temperature", temperature]
    assert main(words) == CheckpointError.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert "the model's logits are not finite behind 4 tokens" in err
    assert err.count("\n") == 1


def test_the_space_between_prompt_and_text_is_kept(tmp_path: Path) -> None:
    """A tokenizer with signs for spaces takes away the one that a text begins with."""
    tokenizer = llama()
    wanted = tokenizer.token_to_id("\u2581the")
    shape = {**TINY, "layers": 1, "vocabulary": tokenizer.get_vocab_size()}
    weights = {n: torch.zeros_like(t) for n, t in random_weights(shape).items()}
    weights["norm.bias"] += 1.0
    weights["tokens.weight"][wanted] = 1.0
    run = saved_run(tmp_path / "run", shape, weights=weights)
    RunPaths(run).tokenizer.write_text(tokenizer.to_str(), encoding="utf-8")
    assert "".join(sample(run, prompt="it was", tokens=2, temperature=0)) == " the the"
    assert "".join(sample(run, tokens=2, temperature=0)) == "the the"
