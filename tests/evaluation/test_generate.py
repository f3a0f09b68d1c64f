"""Greedy continuations are those of one prompt at a time without a cache."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthen.cli.main import main
from lengthen.core.shuffle import sub_seed
from lengthen.evaluation.generate import generate, sample
from lengthen.exchange.export import export
from lengthen.exchange.pretrained import read
from lengthen.run.directory import RunPaths
from lengthen.util.errors import CheckpointError
from tests.data.small_tokenizers import llama
from tests.evaluation.made import tiny_model
from tests.exchange.made import TINY, random_weights, rewritten, saved_run

MODEL = tiny_model()
LENGTH = MODEL.length
prompts = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=60).map(tuple), max_size=6)


@torch.no_grad()
def alone(prompt: tuple[int, ...], limit: int) -> list[int]:
    """The definition: the whole text anew for each token."""
    text = list(prompt[-(LENGTH - limit) :])
    new: list[int] = []
    while len(new) < limit and new[-1:] != [256]:
        new.append(int(MODEL.gpt.logits(torch.tensor([text + new]))[0, -1].argmax()))
    return new


@settings(max_examples=40)
@given(prompts, st.integers(1, 12), st.integers(1, 300))
def test_each_prompt_goes_on_as_it_would_alone(
    given_prompts: list[tuple[int, ...]], limit: int, micro_tokens: int
) -> None:
    model = replace(MODEL, micro_tokens=micro_tokens)
    found = generate(model, given_prompts, stops=(), limit=limit)
    decode = MODEL.tokenizer.decode
    assert found == [decode(alone(prompt, limit)) for prompt in given_prompts]


@settings(max_examples=40)
@given(prompts)
def test_an_answer_ends_ahead_of_its_first_stop(given_prompts: list[tuple[int, ...]]) -> None:
    whole = generate(MODEL, given_prompts, stops=(), limit=12)
    # Half a character is shown as another, which is nobody's stop.
    stops = ["ab", *(text[len(text) // 2] for text in whole if text)]
    stops = [stop for stop in stops if stop != "\N{REPLACEMENT CHARACTER}"]
    found = generate(MODEL, given_prompts, stops=stops, limit=12)
    for text, all_of_it in zip(found, whole, strict=True):
        ends = [all_of_it.find(stop) for stop in stops if stop in all_of_it]
        assert text == all_of_it[: min(ends, default=None)]


# Drawn text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sampled")
    export(saved_run(place / "run", TINY), place / "hf")
    return place / "hf"


def text_of(folder: Path, *, temperature: float, top_k: int = 50) -> str:
    pieces = sample(folder, prompt="the ", tokens=8, temperature=temperature, top_k=top_k)
    return "".join(pieces)


@torch.no_grad()
def drawn_without_cache(folder: Path, prompt: str, tokens: int, seed: int) -> str:
    """The definition: the last full length anew for each token."""
    pretrained = read(folder)
    gpt, generator = pretrained.gpt(), torch.Generator().manual_seed(sub_seed(seed, "sample"))
    text = pretrained.tokenizer.encode(prompt).ids or [256]
    start = len(text)
    while len(text) < start + tokens and text[start:][-1:] != [256]:
        logits = gpt.logits(torch.tensor([text[-gpt.length :]]))[0, -1].double() / 0.8
        logits[logits < logits.topk(50).values[-1]] = -torch.inf
        text.append(int(torch.multinomial(logits.softmax(0), 1, generator=generator)))
    whole = [each for each in text if each != 256]
    return str(pretrained.tokenizer.decode(whole)).removeprefix(prompt)


@pytest.mark.parametrize("prompt", ["", "the ", "longer than the full length of the model"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_alone_decides_the_text_also_beyond_the_full_length(
    folder: Path, prompt: str, seed: int
) -> None:
    text = "".join(sample(folder, prompt=prompt, tokens=40, seed=seed))
    assert text == drawn_without_cache(folder, prompt, 40, seed)


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
    assert "its logits are not finite; its weights are damaged" in err
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
