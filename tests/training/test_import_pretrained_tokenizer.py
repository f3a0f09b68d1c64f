"""The documented way: prepare with the tokenizer of a folder, then import the folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from lengthen.cli.main import main
from lengthen.config.load import load
from lengthen.exchange.export import export
from lengthen.exchange.pretrained import read
from lengthen.training.start import resume
from tests.data.small_tokenizers import as_folder, as_two_files, llama, qwen
from tests.exchange.made import TINY, configured_as, saved_run
from tests.ways_out import takes

OPTIONS = ["--recipe", "laptop-2min-baseline", "--budget.tokens", "128", "--batch.rows", "4"]


def model_folder(place: Path, tokenizer: Tokenizer, form: Any = as_folder, **files: Any) -> Path:
    """A model of another writer, with its tokenizer."""
    added = max(files.get("added_tokens", {"": 0}).values()) + 1
    shape = {**TINY, "vocabulary": max(tokenizer.get_vocab_size(), added)}
    run = saved_run(place / "made", shape)
    as_folder(run, tokenizer, **files)
    export(run, place / "hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / "hf" / name).unlink()
    return Path(form(place / "hf", tokenizer, **files))


def prepared(place: Path, folder: Path, *options: str) -> list[str]:
    (place / "text.txt").write_text("it was the best of times; <sep> <|im_end|>\n" * 60)
    store, source = str(place / "store"), str(place / "text.txt")
    words = ["prepare", source, "--tokenizer", str(folder), "--out", store, "--valid", "0.2"]
    assert main([*words, *options]) == 0
    return ["import", str(folder), "--out", str(place / "run"), "--data", store, *OPTIONS]


WAYS: dict[str, tuple[Tokenizer, Any, dict[str, Any], list[str], str]] = {
    "its own end of text": (
        qwen("<|im_start|>", "<|im_end|>"),
        as_folder,
        {"tokenizer_config": {"eos_token": "<|im_end|>"}},
        [],
        "<|im_end|>",
    ),
    "another than its own": (
        qwen("<|im_end|>", "<sep>"),
        as_folder,
        {"tokenizer_config": {"eos_token": "<|im_end|>"}},
        ["--separator", "<sep>"],
        "<sep>",
    ),
    "two files and added tokens": (
        qwen(),
        as_two_files,
        {"added_tokens": {"<sep>": 271, "<|im_end|>": 270}},
        ["--separator", "<sep>"],
        "<sep>",
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_store_of_the_folders_tokenizer_is_the_folders_own(tmp_path: Path, name: str) -> None:
    tokenizer, form, files, options, separator = WAYS[name]
    folder = model_folder(tmp_path, tokenizer, form, **files)
    assert main(prepared(tmp_path, folder, *options)) == 0
    assert resume(tmp_path / "run", quiet=True).tokens == 128
    of_run = read(tmp_path / "run")
    assert of_run.text.separator_text == separator
    export(tmp_path / "run", tmp_path / "out")
    assert read(tmp_path / "out").text.files() == of_run.text.files()
    ends = json.loads((tmp_path / "out/generation_config.json").read_bytes())
    assert ends["eos_token_id"] == of_run.text.separator


def test_a_tokenizer_that_names_no_end_of_text_needs_a_separator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder alone has none; with a store it has the store's."""
    tokenizer = qwen("<sep>", "<|im_end|>")
    folder = model_folder(tmp_path, tokenizer)
    spelled = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(spelled.replace("<|im_end|>", "<|other|>"), "utf-8")
    assert main(["import", str(folder), "--out", str(tmp_path / "alone")]) == 3
    text = tmp_path / "a.txt"
    text.write_text("Some words. " * 99, "utf-8")
    words = ["prepare", str(text), "--tokenizer", str(folder), "--out", str(tmp_path / "s")]
    assert main(words) == 3
    errors = capsys.readouterr().err
    assert errors.count("prepare --separator TOKEN") == errors.count("lengthen: ") == 2
    assert main([*words, "--separator", "<sepp>"]) == 2
    assert "--separator: " in (error := capsys.readouterr().err)
    assert "did you mean '<sep>'?" in error
    assert main(prepared(tmp_path, folder, "--separator", "<sep>")) == 0
    assert read(tmp_path / "run").text.separator_text == "<sep>"


@takes("store {}: {}; prepare it with --tokenizer {}")
def test_a_store_whose_separator_the_folder_lacks_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(tmp_path, qwen("<|im_end|>"))
    (tmp_path / "other").mkdir()
    other = model_folder(tmp_path / "other", qwen("</s>"))
    words = prepared(tmp_path, other)
    words[1] = str(folder)
    capsys.readouterr()
    assert main(words) == 3
    error = capsys.readouterr().err
    assert f"its separator </s> is no token of the folder {folder}; prepare it with" in error
    assert error.count("\n") == 1
    assert main(prepared(tmp_path, folder, "--overwrite")) == 0


def test_what_a_tokenizer_puts_around_a_text_does_not_leave_with_the_model(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, llama(), tokenizer_config={"eos_token": "</s>"})
    transformers = pytest.importorskip("transformers", reason="transformers is a dev dependency")
    export(tmp_path / "made", tmp_path / "out", overwrite=True)
    ours = read(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    text = "it was the best of times"
    assert theirs(text).input_ids == ours.tokenizer.encode(text).ids
    assert (theirs.eos_token_id, theirs.decode(theirs(text).input_ids)) == (2, text)


# Dropouts that differ


@takes("say which: --model.dropout SHARE")
def test_training_wants_to_know_which_dropout_and_nobody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(tmp_path, qwen("<|im_end|>"))
    configured_as(folder, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.3)
    words = prepared(tmp_path, folder)
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    shares = "resid_pdrop 0.1, embd_pdrop 0.1, attn_pdrop 0.3"
    assert f"model.dropout: is one for all, and the folder has {shares}; say which: --mod" in error
    assert error.count("\n") == 1
    assert main([*words, "--model.dropout", "0.2"]) == 0
    assert load(str(tmp_path / "run/config.toml"))[0].model.dropout == 0.2
    assert main(["sample", str(folder), "--tokens", "2"]) == 0
    capsys.readouterr()
    assert main(["import", str(folder), "--out", str(tmp_path / "kept")]) == 0
    assert f"model.dropout is 0.1; the folder has {shares}" in capsys.readouterr().err
