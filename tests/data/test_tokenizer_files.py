"""One reader of tokenizer folders: it reads all of them, and nothing there changes a text."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models

from lengthen.data.join import join
from lengthen.data.prepare import prepare
from lengthen.data.store import Store
from lengthen.data.tokenizer import resolve, tokenizer_difference, vocabulary_size
from lengthen.data.tokenizer_files import SEPARATOR, read_tokenizer
from lengthen.util.errors import DataError, LengthenError, SettingError
from tests.data.files import write
from tests.data.small_tokenizers import as_folder, as_two_files, llama, qwen, with_files

NUMBERS = "In 1815 and 2023.\n\n(then) it was\n"


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def token(content: str, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {"content": content, **plain, **flags}


# What is read


def test_tokenizer_json_comes_first_whatever_lies_beside_it(tmp_path: Path) -> None:
    own = qwen("<|im_end|>")
    as_two_files(tmp_path, own)
    as_folder(tmp_path, own)
    found = read_tokenizer(tmp_path)
    assert ids(found.tokenizer, NUMBERS) == ids(own, NUMBERS)
    assert read_tokenizer(tmp_path / "tokenizer.json").files() == found.files()
    # The two files alone would split otherwise.
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 270}')
    assert ids(read_tokenizer(tmp_path).tokenizer, NUMBERS) != ids(own, NUMBERS)


SPEAKER: dict[str, dict[str, Any]] = {
    "added_tokens": {"added_tokens": {"<|speaker|>": 271, "<|im_end|>": 270}},
    "the decoder": {
        "tokenizer_config": {
            "added_tokens_decoder": {
                "270": token("<|im_end|>", special=True),
                "271": token("<|speaker|>"),
            }
        }
    },
    "both": {
        "added_tokens": {"<|speaker|>": 271},
        "tokenizer_config": {"added_tokens_decoder": {"270": token("<|im_end|>")}},
    },
    "behind a gap": {"added_tokens": {"<|speaker|>": 700, "<|im_end|>": 270}},
    "below a gap": {"added_tokens": {"<|speaker|>": 271, "<|im_end|>": 700}},
}


@pytest.mark.parametrize("name", SPEAKER)
@pytest.mark.parametrize("form", [as_folder, as_two_files])
def test_every_added_token_is_kept_under_its_own_number(
    tmp_path: Path, name: str, form: Any
) -> None:
    form(tmp_path, qwen(), **SPEAKER[name])
    wanted = dict(SPEAKER[name].get("added_tokens", {}))
    decoder = SPEAKER[name].get("tokenizer_config", {}).get("added_tokens_decoder", {})
    wanted |= {one["content"]: int(number) for number, one in decoder.items()}
    found = read_tokenizer(tmp_path, "<|im_end|>")
    assert {text: found.tokenizer.token_to_id(text) for text in wanted} == wanted
    assert vocabulary_size(found.tokenizer) == max(wanted.values()) + 1
    assert found.separator == wanted["<|im_end|>"]
    # An ordinary one is found in a text, the separator never.
    assert wanted["<|speaker|>"] in ids(found.tokenizer, "a<|speaker|>b")
    assert found.separator not in ids(found.tokenizer, "a<|im_end|>b")
    # What is written down reads as the same.
    for file, data in found.files().items():
        write(tmp_path / "again" / file, data)
    assert read_tokenizer(tmp_path / "again").files() == found.files()


def test_a_gap_in_tokenizer_json_itself_moves_no_token(tmp_path: Path) -> None:
    spelled = json.loads(qwen("<|im_end|>", "<|x|>").to_str())
    spelled["added_tokens"][1]["id"] = 320
    write(tmp_path / "tokenizer.json", json.dumps(spelled))
    found = read_tokenizer(tmp_path).tokenizer
    assert (found.token_to_id("<|im_end|>"), found.token_to_id("<|x|>")) == (270, 320)


def test_a_special_token_that_the_vocabulary_has_is_special(tmp_path: Path) -> None:
    own = qwen()
    vocab = {**own.get_vocab(), "<pad>": 270, "</s>": 271}
    merges = [tuple(pair) for pair in json.loads(own.to_str())["model"]["merges"]]
    whole = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    names = {"eos_token": token("</s>"), "pad_token": "<pad>", "bos_token": None}
    as_two_files(tmp_path, whole, special_tokens_map=names)
    found = read_tokenizer(tmp_path)
    assert found.separator_text == "</s>"
    added = found.tokenizer.get_added_tokens_decoder()
    assert {number: one.special for number, one in added.items()} == {270: True, 271: True}


def test_a_token_without_a_number_is_not_made_up(tmp_path: Path) -> None:
    as_folder(tmp_path, qwen(SEPARATOR), tokenizer_config={"pad_token": "[PAD]"})
    assert vocabulary_size(read_tokenizer(tmp_path).tokenizer) == 271


# Nothing in it changes the ids of a text


def test_cutting_padding_and_tokens_around_a_text_are_off(tmp_path: Path) -> None:
    as_folder(tmp_path / "asks", llama())
    as_folder(tmp_path / "plain", llama(begins=False))
    text = "it was the best of times \N{SNOWMAN}"
    asks, plain = (read_tokenizer(tmp_path / name) for name in ("asks", "plain"))
    assert llama().encode(text).ids != ids(plain.tokenizer, text)
    assert asks.tokenizer.encode(text).ids == ids(plain.tokenizer, text)
    batch = asks.tokenizer.encode_batch([text, "it"], add_special_tokens=False)
    assert [each.ids for each in batch] == [ids(plain.tokenizer, one) for one in (text, "it")]
    write(tmp_path / "text.txt", text * 9)
    stores = [
        prepare(
            [tmp_path / "text.txt"],
            tmp_path / f"{name}-store",
            tokenizer=str(tmp_path / name),
            valid=0,
        )
        for name in ("asks", "plain")
    ]
    assert stores[0].manifest.id == stores[1].manifest.id
    store = Store.open(tmp_path / "asks-store")
    assert store.train.tolist() == [*ids(plain.tokenizer, text * 9), 2]
    assert store.tokenizer().decode(store.train.tolist()) == text * 9


# The separator

ENDS: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "GPT-2's": ((SEPARATOR, "</s>"), {}, SEPARATOR),
    "Llama 3's": (("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"), {}, "<|end_of_text|>"),
    "the chat's alone": (("<|im_start|>", "<|im_end|>"), {}, "<|im_end|>"),
    "as the configuration has it": (
        (SEPARATOR, "<|im_end|>"),
        {"tokenizer_config": {"eos_token": "<|im_end|>"}},
        "<|im_end|>",
    ),
    "as an object": (
        (SEPARATOR, "<|im_end|>"),
        {"tokenizer_config": {"eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}}},
        "<|im_end|>",
    ),
    "as the older file has it": (
        (SEPARATOR, "<end>"),
        {"special_tokens_map": {"eos_token": token("<end>")}},
        "<end>",
    ),
    "the configuration first": (
        ("<a>", "<b>"),
        {"special_tokens_map": {"eos_token": "<a>"}, "tokenizer_config": {"eos_token": "<b>"}},
        "<b>",
    ),
    "named, but not there": (
        (SEPARATOR,),
        {"tokenizer_config": {"eos_token": "</s>"}},
        SEPARATOR,
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_separator_is_the_end_of_text_that_the_folder_names(tmp_path: Path, name: str) -> None:
    special, files, expected = ENDS[name]
    as_folder(tmp_path, qwen(*special), **files)
    found = read_tokenizer(tmp_path)
    assert found.separator_text == expected
    assert found.separator not in ids(found.tokenizer, f"a{expected} {expected}")


def test_any_special_token_can_be_named(tmp_path: Path) -> None:
    as_folder(tmp_path, qwen("<sep>", "<|im_end|>"))
    write(tmp_path / "a.jsonl", '{"text": "it <sep> was"}\n{"text": "the"}\n')
    out = tmp_path / "store"
    spec = str(tmp_path / "tokenizer.json")
    prepare([tmp_path / "a.jsonl"], out, tokenizer=spec, separator="<sep>", valid=0)
    store = Store.open(out)
    assert store.text_tokenizer().separator_text == "<sep>"
    assert store.train.tolist().count(270) == 2
    for part in ("1/2", "2/2"):
        source, to = tmp_path / "a.jsonl", tmp_path / "parts"
        prepare([source], to, tokenizer=spec, separator="<sep>", valid=0, part=part)
    join(tmp_path / "parts")
    prepare(
        out / "train.bin", tmp_path / "placed", tokenizer=spec, separator="<sep>", in_place=True
    )
    # A store is a tokenizer, too, with the separator that it was made with, wherever its ids lie.
    for other in ("store", "parts", "placed"):
        again = resolve(str(tmp_path / other))
        assert again.separator_text == "<sep>"
        assert tokenizer_difference(again.tokenizer, store.tokenizer()) is None


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("<|im_ned|>", "did you mean '<|im_end|>'?"), ("q" * 9, "one of <|im_start|>, <|im_end|>")],
)
def test_a_wrong_name_gets_the_nearest(tmp_path: Path, asked: str, hint: str) -> None:
    as_folder(tmp_path, qwen("<|im_start|>", "<|im_end|>"))
    with pytest.raises(SettingError) as caught:
        resolve(str(tmp_path), separator=asked)
    assert caught.value.setting == "separator"
    assert caught.value.hint == hint


@pytest.mark.parametrize("spec", ["bytes", "train:300"])
def test_what_we_make_ourselves_has_our_separator_and_another_is_refused_before_any_work(
    spec: str,
) -> None:
    def sample() -> Any:
        pytest.fail("was read")
        yield

    with pytest.raises(SettingError, match="no such token, got '</s>'; it has <.endoftext.>"):
        resolve(spec, sample(), "</s>")
    assert resolve(spec, ["abc"], SEPARATOR).separator_text == SEPARATOR


@pytest.mark.parametrize("asked", ["\u0120was", "the", "\u010a", "e"])
def test_an_ordinary_token_is_no_separator_however_it_is_spelled(
    tmp_path: Path, asked: str
) -> None:
    vocab = {**qwen().get_vocab(), "the": 271}
    merges = [tuple(pair) for pair in json.loads(qwen().to_str())["model"]["merges"]]
    own = qwen("<|end|>")
    own.model = models.BPE(vocab=vocab, merges=[*merges, ("t", "he")])
    as_folder(tmp_path, own)
    with pytest.raises(DataError, match="becomes the separator; --separator names another"):
        resolve(str(tmp_path), separator=asked)


# What is refused


def lfs(folder: Path) -> None:
    write(folder / "tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def newer(folder: Path) -> None:
    spelled = json.loads(qwen(SEPARATOR).to_str())
    spelled["pre_tokenizer"] = {"type": "OfTomorrow"}
    write(folder / "tokenizer.json", json.dumps(spelled))


REFUSED: dict[str, tuple[type[LengthenError], str, Any]] = {
    "no end of text": (
        DataError,
        "names no eos_token, and it has none of <|endoftext|>, <|end_of_text|>, </s>",
        lambda f: as_folder(f, qwen("<a>")),
    ),
    "an end of text that is not there": (
        DataError,
        "its eos_token '<end>' has no id",
        lambda f: as_folder(f, qwen(), tokenizer_config={"eos_token": "<end>"}),
    ),
    "SentencePiece": (
        SettingError,
        "the folder must hold tokenizer.json, merges.txt or vocab.bpe",
        lambda f: write(f / "tokenizer.model", b"\n\x0e"),
    ),
    "two files of another family": (
        DataError,
        "do not say how a 'Qwen2Tokenizer' splits text; Transformers writes it: AutoTokenizer.from",
        lambda f: as_two_files(f, qwen(), tokenizer_config={"tokenizer_class": "Qwen2Tokenizer"}),
    ),
    "a stand-in": (DataError, "is a Git LFS pointer and not the file itself; `git lfs pull`", lfs),
    "a file of tomorrow": (DataError, "not a tokenizer.json for tokenizers", newer),
    "a number that is taken": (
        DataError,
        "the added token '<x>' has id 5, that of '&'",
        lambda f: as_folder(f, qwen(SEPARATOR), added_tokens={"<x>": 5}),
    ),
    "a huge number": (
        DataError,
        "has a token with id 268435456, over 16777215",
        lambda f: as_folder(f, qwen(SEPARATOR), added_tokens={"<x>": 2**28}),
    ),
    "a number below nothing": (
        DataError,
        "the added token '<x>' has id -1",
        lambda f: as_folder(f, qwen(SEPARATOR), added_tokens={"<x>": -1}),
    ),
    "a number that is none": (
        DataError,
        "added_tokens.json: cannot be used (<x>: Input should be a valid integer",
        lambda f: as_folder(f, qwen(SEPARATOR), added_tokens={"<x>": "y"}),
    ),
    "a list of tokens": (
        DataError,
        "special_tokens_map.json: cannot be used",
        lambda f: as_folder(f, qwen(SEPARATOR), special_tokens_map=["</s>"]),
    ),
    "no JSON": (
        DataError,
        "tokenizer_config.json: cannot be used",
        lambda f: write(as_folder(f, qwen(SEPARATOR)) / "tokenizer_config.json", "{"),
    ),
    "a gap that cannot be": (
        DataError,
        "no gap can be below the ids of its added tokens",
        lambda f: as_folder(
            f,
            Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False)),
            added_tokens={"</s>": 9},
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line_with_its_cause(
    tmp_path: Path, name: str
) -> None:
    kind, words, make = REFUSED[name]
    make(tmp_path)
    with pytest.raises(kind) as caught:
        read_tokenizer(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prefix_space_of_the_two_files_is_kept(tmp_path: Path) -> None:
    as_two_files(tmp_path, qwen(), added_tokens={SEPARATOR: 270})
    plain = read_tokenizer(tmp_path).tokenizer
    with_files(tmp_path, tokenizer_config={"add_prefix_space": True})
    assert ids(read_tokenizer(tmp_path).tokenizer, "was") == ids(plain, " was")


def test_flags_of_an_added_token_are_kept(tmp_path: Path) -> None:
    own = qwen(SEPARATOR)
    own.add_tokens([AddedToken("<x>", lstrip=True, normalized=False)])
    as_folder(tmp_path, own, added_tokens={"<y>": 272})
    found = read_tokenizer(tmp_path).tokenizer
    assert found.encode("a  <x>").tokens == own.encode("a  <x>").tokens
    assert found.get_added_tokens_decoder()[271].lstrip
