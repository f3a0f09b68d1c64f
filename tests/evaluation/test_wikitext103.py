"""WikiText-103: held against Transformers, against lm-eval, and against its own convention."""

import hashlib
import importlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from lengthen.data.tokenizer import resolve
from lengthen.evaluation.models import EvalOptions
from lengthen.evaluation.results import Measure, Outcome
from lengthen.evaluation.wikitext103 import (
    ANOTHER,
    PUBLISHED,
    count_words,
    detokenise,
    read,
    wikitext103,
)
from lengthen.exchange.export import export
from lengthen.run.directory import RunPaths
from lengthen.util.errors import DataError, LengthenError, SettingError
from tests.conftest import SHARED
from tests.evaluation.made import WORDS, model_of, tiny_model
from tests.exchange.made import saved_run

RAW = SHARED / "wikitext2/wiki.test.raw"
LINES = 14
LENGTH = 128
LIMIT = 1e-4  # relative
SMALL = ' \n = Robert Boulter = \n \n He is an actor , and " Craig " ( 2004 ) was his .\n' * 9

needs_text = pytest.mark.skipif(not RAW.exists(), reason="needs the test text of WikiText")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Transformers folder of short windows, with random weights and GPT-2's tokenizer."""
    place = tmp_path_factory.mktemp("evaluated")
    run = saved_run(place / "run", {**WORDS, "length": LENGTH})
    RunPaths(run).tokenizer.write_text(resolve("gpt2").tokenizer.to_str(), encoding="utf-8")
    export(run, place / "hf")
    return place / "hf"


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the first lines of the real text."""
    file = tmp_path_factory.mktemp("part") / "wiki.test.raw"
    file.write_bytes(b"".join(RAW.read_bytes().splitlines(keepends=True)[:LINES]))
    return file


def small(folder: Path, text: str = SMALL) -> Path:
    (folder / "wiki.test.raw").write_bytes(text.encode())
    return folder


def measures(outcome: Outcome) -> dict[str, Measure]:
    return {measure.name: measure for measure in outcome.measures}


def loss_by_transformers(folder: Path, tokens: list[int], stride: int) -> float:
    """The summed loss of all tokens but the first, as Transformers' model of the folder has it."""
    transformers: Any = importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    length, total, scored = model.config.n_positions, 0.0, 1
    while scored < len(tokens):
        end = min(scored + (length if scored == 1 else stride), len(tokens))
        start = max(0, end - 1 - length)
        window = torch.tensor([tokens[start:end]])
        own = torch.arange(scored - start, end - start)
        with torch.inference_mode():
            logits = model(window[:, :-1]).logits[0]
        total += float(cross_entropy(logits[own - 1], window[0, own], reduction="sum"))
        scored = end
    return total


@needs_text
@pytest.mark.parametrize("stride", [None, 50])
def test_perplexities_are_those_of_transformers(
    folder: Path, part: Path, stride: int | None
) -> None:
    outcome = wikitext103(model_of(folder), EvalOptions(sets=part, stride=stride))
    text = part.read_bytes().decode()
    tokens = resolve("gpt2").tokenizer.encode(detokenise(text)).ids
    loss = loss_by_transformers(folder, [50256, *tokens], stride or LENGTH)
    found = measures(outcome)
    assert outcome.tokens == len(tokens) > 3 * LENGTH
    assert found["token perplexity"].value == pytest.approx(math.exp(loss / len(tokens)), rel=LIMIT)
    words = len(text.strip().split(" "))
    assert found["word perplexity"].value == pytest.approx(math.exp(loss / words), rel=LIMIT)


@needs_text
def test_the_loss_is_that_of_lm_eval_by_its_own_clean_up(
    folder: Path, part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = part.read_bytes().decode()
    theirs = word_perplexity_by_lm_eval(folder, text, tmp_path)
    outcome = wikitext103(model_of(folder), EvalOptions(sets=part))
    # It counts words by another rule: the text as one page, split at any white space.
    loss = math.log(theirs) * len(re.split(r"\s+", text))
    ours = measures(outcome)["word perplexity"].value
    assert ours == pytest.approx(math.exp(loss / len(text.strip().split(" "))), rel=LIMIT)


def word_perplexity_by_lm_eval(folder: Path, text: str, place: Path) -> float:
    lm_eval: Any = importlib.import_module("lm_eval")
    tasks: Any = importlib.import_module("lm_eval.tasks")
    models: Any = importlib.import_module("lm_eval.models.huggingface")
    (place / "page.jsonl").write_text(json.dumps({"page": text}), encoding="utf-8")
    own = Path(lm_eval.__file__).parent / "tasks/wikitext/wikitext.yaml"
    options = f"{{data_files: {{test: {place / 'page.jsonl'}}}, cache_dir: {place / 'cache'}}}"
    (place / "local.yaml").write_text(
        f"include: {own}\ntask: local_wikitext\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {options}\ntraining_split: null\nvalidation_split: null\n"
        "test_split: test\n",
        encoding="utf-8",
    )
    results = lm_eval.simple_evaluate(
        model=models.HFLM(pretrained=str(folder), dtype="float64", device="cpu", batch_size=1),
        tasks=["local_wikitext"],
        bootstrap_iters=0,
        task_manager=tasks.TaskManager(include_path=str(place), include_defaults=False),
    )
    return float(results["results"]["local_wikitext"]["word_perplexity,none"])


@needs_text
def test_the_published_text_is_known_and_its_words_are_counted_as_megatron_does() -> None:
    text, _ = read(SHARED / "wikitext2")
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED
    assert count_words(text) == 245_570


@needs_text
def test_the_rows_of_the_hub_give_the_published_text(tmp_path: Path) -> None:
    """The hub has one row for each line, and an empty one for a line of one space."""
    lines = RAW.read_bytes().decode().splitlines(keepends=True)
    rows = ["" if line == " \n" else line for line in lines]
    folder = tmp_path / "wikitext-103-raw-v1"
    folder.mkdir()
    pyarrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    file = folder / "test-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table({"text": rows}), file)
    assert hashlib.sha256(read(tmp_path)[0].encode()).hexdigest() == PUBLISHED


def test_the_conventions_stand_beside_the_result(tmp_path: Path) -> None:
    outcome = wikitext103(tiny_model(), EvalOptions(sets=small(tmp_path), stride=16))
    assert dict(outcome.settings)["stride"] == "16"
    assert dict(outcome.settings)["set"] == str(tmp_path / "wiki.test.raw")
    stream, words, another = outcome.notes
    assert "each window scores its last tokens (16)" in stream
    assert "within a full length of 48" in stream
    assert words.endswith(f"({len(SMALL.strip().split(' '))})")
    assert another == ANOTHER


def test_chance_gives_every_token_the_same(tmp_path: Path) -> None:
    model = tiny_model()
    torch.nn.init.zeros_(model.gpt.tokens.weight)
    found = measures(wikitext103(model, EvalOptions(sets=small(tmp_path))))
    for measure in found.values():
        assert measure.value == pytest.approx(measure.chance)
        assert measure.error == pytest.approx(0, abs=1e-6)


def test_a_limit_estimates_the_same_figure_from_the_first_windows(tmp_path: Path) -> None:
    model, sets = tiny_model(), small(tmp_path)
    every = wikitext103(model, EvalOptions(sets=sets))
    some = wikitext103(model, EvalOptions(sets=sets, limit=2))
    assert (some.items, some.tokens) == (2, 96)
    assert every.items > 2
    for name, measure in measures(some).items():
        assert measure.value != measures(every)[name].value
        # Words a token are those of the whole text.
        ratio = math.log(measures(some)["word perplexity"].value)
        ratio /= math.log(measures(some)["token perplexity"].value)
        assert ratio == pytest.approx(
            math.log(measures(every)["word perplexity"].value)
            / math.log(measures(every)["token perplexity"].value)
        )


def wrong(folder: Path, content: bytes, name: str = "wiki.test.raw") -> Path:
    (folder / name).write_bytes(content)
    return folder


MISTAKES: dict[str, tuple[Callable[[Path], Path | None], type[LengthenError], str]] = {
    "none named": (lambda _: None, SettingError, "no set wikitext103: none is named, and none is"),
    "not there": (lambda f: f, SettingError, "a folder with wiki.test.raw, "),
    "empty": (lambda f: wrong(f, b" \n \n"), DataError, "wiki.test.raw: is empty"),
    "no text": (lambda f: wrong(f, b"\xff\xfe"), DataError, "wiki.test.raw: not UTF-8"),
    "other rows": (
        lambda f: wrong(f, b'{"page": "a"}\n', "wikitext103.jsonl"),
        DataError,
        "line 1: has no field 'text'; one of page",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_text_that_cannot_be_used_is_one_line(name: str, tmp_path: Path) -> None:
    make, kind, message = MISTAKES[name]
    with pytest.raises(LengthenError) as caught:
        wikitext103(tiny_model(), EvalOptions(sets=make(tmp_path)))
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stride_beyond_the_full_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--stride: must be at most the full length \(48\)"):
        wikitext103(tiny_model(), EvalOptions(sets=small(tmp_path), stride=49))


# Clean-up


@pytest.mark.parametrize(
    ("spaced", "written"),
    [
        ("a guest @-@ starring role", "a guest-starring role"),
        ("5 @,@ 000 people , 2 @.@ 5 of them", "5,000 people, 2.5 of them"),
        ("so : one ; two . Three ! Four ? Five", "so: one; two. Three! Four? Five"),
        ("the play ( 2001 ) and [ sic ] { x }", "the play (2001) and [sic] {x}"),
        ('as " Craig " in', 'as "Craig" in'),
        ("the actors ' own", "the actors' own"),
        ("Teddy 's Story", "Teddy's Story"),
        (" \n = Title = \n \n = = Part = = \n", "\n= Title =\n\n== Part ==\n"),
        ("= = = Low = = = and = = = = Deep = = = =", "=== Low === and ==== Deep ===="),
        ("at 5 ° C", "at 5°C"),
        ("took N days", "took 1 days"),
    ],
)
def test_each_rule_gives_text_as_people_write_it(spaced: str, written: str) -> None:
    assert detokenise(spaced) == written


def test_quotation_marks_pair_up_over_the_ends_of_lines() -> None:
    assert detokenise('one "\n two " three') == 'one "two" three'


@needs_text
def test_the_whole_test_text_becomes_what_lm_eval_makes_of_it() -> None:
    text = RAW.read_bytes().decode()
    theirs = importlib.import_module("lm_eval.tasks.wikitext.preprocess_wikitext")
    assert detokenise(text) == theirs.wikitext_detokenizer({"page": text})
