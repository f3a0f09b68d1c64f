"""The one reader of tokenizers that lie in files, for `prepare`, `import`, `sample` and `eval`.

In a folder: tokenizer.json, else GPT-2's two files; then every token that was added beside them, as
Transformers keeps it (added_tokens_decoder and the named tokens of tokenizer_config.json,
added_tokens.json, special_tokens_map.json). A tokenizer.json that is named itself is read with the
files beside it; a file of another name is read alone. Where two files differ, the first counts.

The separator is the token that was asked for, else the folder's `eos_token`, else the first of
KNOWN that the vocabulary has.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Tokenizer

from lengthen.data.byte_level import MERGES_NAMES, SEPARATOR, first, from_gpt2_files
from lengthen.data.store import (
    NAMES,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_LIMIT,
    must_be_bounded,
    one_line,
    parse_tokenizer,
    read_limited,
    read_manifest,
    tokenizer_files,
)
from lengthen.util.errors import DataError, SettingError, nearest, shown

KNOWN = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|im_end|>")
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTED = ("additional_special_tokens", "extra_special_tokens")
OTHER_FORMATS = ("tokenizer.model", "spiece.model", "tekken.json", "vocab.txt", "tiktoken.model")
# Whose two files are split as GPT-2's are; of others the files do not say how.
TWO_FILES = ("GPT2", "Roberta", "Bart", "CodeGen", "PreTrainedTokenizer")
CANDIDATES = 12  # tokens that a message lists

Json = dict[str, Any]


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer for whole documents, and the token that stands behind each of them."""

    tokenizer: Tokenizer
    separator: int

    @property
    def separator_text(self) -> str:
        """How the separator is spelled; no text gives it, however it is spelled."""
        return str(self.tokenizer.id_to_token(self.separator))

    def files(self) -> dict[str, bytes]:
        """Return by name the files of a folder that `read_tokenizer` gives the same from."""
        return tokenizer_files(self.tokenizer.to_str().encode(), self.separator_text)


class Added(BaseModel):
    """A token beside those of the model, with the names that a tokenizer.json has."""

    model_config = ConfigDict(frozen=True)

    content: str
    id: int | None = None  # None: the model's, if it has the token
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False  # never found in a text


def read_tokenizer(path: Path, separator: str | None = None) -> TextTokenizer:
    """Return the tokenizer in a folder or a file, with every token that was added to it.

    Links are followed: the hub's cache is made of them. Raises SettingError for a folder without a
    tokenizer and for a `separator` that it does not have, DataError for files that cannot be used,
    a tokenizer without a separator or with one that text can spell, and for dropout.
    """
    folder = path if os.path.isdir(path) else path.parent if path.name == TOKENIZER else None
    config = {} if folder is None else _json(folder / TOKENIZER_CONFIG)
    tokens = {} if folder is None else _json(folder / SPECIAL_TOKENS)
    tokenizer, spelled = _alone(path, config)
    own = [_added(path, token) for token in spelled.get("added_tokens") or ()]
    beside = [] if folder is None else _beside(folder, config, tokens)
    wanted = _numbered(path, tokenizer, [*own, *beside])
    declared = _end_of_store(folder, tokenizer) or _end(config) or _end(tokens)
    number = _separator(path, tokenizer, wanted, separator, declared)
    if wanted != {one.content: one for one in own} or not _agree(tokenizer, wanted):
        tokenizer = _rebuilt(path, spelled, wanted)
    return checked(TextTokenizer(tokenizer, number), str(path))


def checked(found: TextTokenizer, place: str) -> TextTokenizer:
    """Refuse what would make a store that lies: a separator that text can forge, or chance."""
    tokenizer = found.tokenizer
    if _can_be_spelled(tokenizer, found.separator):
        rule = f"text that spells {shown(found.separator_text)} becomes the separator"
        special = {
            id: one for id, one in tokenizer.get_added_tokens_decoder().items() if one.special
        }
        safe = [one.content for id, one in special.items() if not _can_be_spelled(tokenizer, id)]
        way_out = (
            f"name one that it keeps apart, {nearest_token('', safe)}: --separator TOKEN"
            if safe
            else "and it has no special token that it keeps apart; use another, such as train:8192"
        )
        raise DataError(f"tokenizer {place}: {rule}; {way_out}")
    if json.loads(tokenizer.to_str())["model"].get("dropout"):
        raise DataError(f"tokenizer {place}: has dropout, so no text is encoded twice alike; set 0")
    return found


def _can_be_spelled(tokenizer: Tokenizer, number: int) -> bool:
    name = tokenizer.id_to_token(number)
    # The second is how an ordinary token reads, such as a line end that is spelled otherwise.
    texts = (f"a{name} {name}", tokenizer.decode([number], skip_special_tokens=False))
    return any(number in tokenizer.encode(text, add_special_tokens=False).ids for text in texts)


def _alone(path: Path, config: Json) -> tuple[Tokenizer, Json]:
    """Return the tokenizer without what lies beside it, and its tokenizer.json."""
    file = path / TOKENIZER if os.path.isdir(path) else path
    if file == path or file.is_file():
        data = read_limited(file.resolve(), TOKENIZER_LIMIT)
        return parse_tokenizer(data, path), json.loads(data)
    found = from_gpt2_files(path, prefix_space=config.get("add_prefix_space") is True)
    if found is None:
        raise _no_tokenizer(path)
    kind = config.get("tokenizer_class")
    if isinstance(kind, str) and not kind.startswith(TWO_FILES):
        rule = (
            f"is a {shown(kind)} without {TOKENIZER}, and its other files do not say how it splits"
        )
        raise DataError(f"tokenizer {path}: {rule}; {_way_out(path)}")
    return found, json.loads(found.to_str())


def _no_tokenizer(folder: Path) -> SettingError:
    if other := first(folder, OTHER_FORMATS):
        rule = f"the folder has only {other.name}, and must hold {TOKENIZER}"
        return SettingError("tokenizer", rule, str(folder), _way_out(folder))
    names = f"{TOKENIZER}, {' or '.join(MERGES_NAMES)}"
    return SettingError("tokenizer", f"the folder must hold {names}", str(folder))


def _way_out(folder: Path) -> str:
    place = shown(str(folder))
    return (
        f"Transformers writes one: AutoTokenizer.from_pretrained({place}).save_pretrained({place})"
    )


def _json(file: Path) -> Json:
    """Return the object in a file, an empty one where there is no file."""
    if not os.path.lexists(file):
        return {}
    try:
        found = json.loads(read_limited(file.resolve(), TOKENIZER_LIMIT))
    except (ValueError, RecursionError) as error:
        raise DataError(f"file {file}: is no JSON ({one_line(error)})") from None
    if not isinstance(found, dict):
        raise DataError(f"file {file}: must be a JSON object")
    return found


def _added(place: Path, token: object, **known: object) -> Added:
    """Return a token that a file gives as its text, or as an object; raises DataError."""
    try:
        given = token if isinstance(token, dict) else {"content": token}
        return Added.model_validate({**given, **known})
    except ValidationError as error:
        cause = one_line(error.errors(include_url=False)[0]["msg"])
        raise DataError(f"file {place}: {shown(token)} is no token ({cause})") from None


def _beside(folder: Path, config: Json, tokens: Json) -> list[Added]:
    """Return the tokens that the files beside a tokenizer.json name, those with a number first."""
    named = [
        *_special(folder / TOKENIZER_CONFIG, config),
        *_special(folder / SPECIAL_TOKENS, tokens),
    ]
    special = {one.content for one in named}
    file = folder / ADDED_TOKENS
    numbered = [
        *_decoder(folder / TOKENIZER_CONFIG, config),
        *(
            # Transformers finds an ordinary one in the normalised text.
            _added(file, name, id=number, special=name in special, normalized=name not in special)
            for name, number in _json(file).items()
        ),
    ]
    return [*numbered, *named]


def _decoder(file: Path, config: Json) -> Iterator[Added]:
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise DataError(f"file {file}: added_tokens_decoder must be a JSON object")
    for number, token in decoder.items():
        yield _added(file, token, id=number)


def _special(file: Path, config: Json) -> Iterator[Added]:
    for name in NAMED:
        if config.get(name):
            yield _added(file, config[name], special=True)
    for name in LISTED:
        listed = config.get(name) or []
        if not isinstance(listed, list | dict):
            raise DataError(f"file {file}: {name} must be a list of tokens")
        for token in listed.values() if isinstance(listed, dict) else listed:
            yield _added(file, token, special=True)


def _end(config: Json) -> str | None:
    token = config.get("eos_token")
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None


def _end_of_store(folder: Path | None, tokenizer: Tokenizer) -> str | None:
    """Return the separator of a token store, whose tokenizer can make another store."""
    if folder is None or not all((folder / name).is_file() for name in NAMES):
        return None
    name: str | None = tokenizer.id_to_token(read_manifest(folder).separator)
    return name


def _numbered(path: Path, tokenizer: Tokenizer, tokens: list[Added]) -> dict[str, Added]:
    """Return the added tokens by their text, each with its number; the first of a text counts.

    A token that has a number nowhere is none: no row of an embedding was made for it.
    """
    own = tokenizer.get_vocab(with_added_tokens=False)
    named = {number: name for name, number in own.items()}
    found: dict[str, Added] = {}
    for one in tokens:
        number = own.get(one.content, one.id)
        if not one.content or one.content in found or number is None:
            continue
        must_be_bounded(path, [number])
        if named.setdefault(number, one.content) != one.content or number < 0:
            rule = f"the added token {shown(one.content)} has id {number}, that of"
            raise DataError(f"tokenizer {path}: {rule} {shown(named[number])}")
        found[one.content] = one.model_copy(update={"id": number})
    return found


def _separator(
    path: Path,
    tokenizer: Tokenizer,
    wanted: dict[str, Added],
    asked: str | None,
    declared: str | None,
) -> int:
    """Return the number of the separator, which is a special token in `wanted` from then on."""
    own = tokenizer.get_vocab(with_added_tokens=False)
    names = own.keys() | wanted.keys()
    if asked is not None and asked not in names:
        special = [name for name, one in wanted.items() if one.special]
        known = [name for name in KNOWN if name in own and name not in special]
        hint = nearest_token(asked, [*special, *known])
        raise SettingError("separator", f"the tokenizer {path} has no such token", asked, hint)
    name = asked or next((name for name in (declared, *KNOWN) if name in names), None)
    if name is None:
        ends = (
            f"its eos_token {shown(declared)} has no number" if declared else "names no eos_token"
        )
        rule = f"{ends}, and it has none of {', '.join(KNOWN)}, to put between documents"
        way_out = (
            f"name one with `prepare --separator TOKEN`, or as eos_token in {TOKENIZER_CONFIG}"
        )
        raise DataError(f"tokenizer {path}: {rule}; {way_out}")
    before = wanted.get(name, Added(content=name, id=own.get(name)))
    if not before.special:
        wanted[name] = before.model_copy(update={"special": True, "normalized": False})
    assert before.id is not None
    return before.id


def nearest_token(name: str, names: list[str]) -> str:
    """Return the hint that names the closest token, or the first few."""
    if not names:
        return "it has no special token"
    hint = nearest(name, names)
    return hint if hint.startswith("did") else f"one of {', '.join(names[:CANDIDATES])}"


def _agree(tokenizer: Tokenizer, wanted: dict[str, Added]) -> bool:
    return all(tokenizer.token_to_id(name) == one.id for name, one in wanted.items())


def _rebuilt(path: Path, spelled: Json, wanted: dict[str, Added]) -> Tokenizer:
    """Return the tokenizer with exactly the added tokens `wanted`, each with its number."""
    ordered = sorted(wanted.values(), key=lambda one: one.id or 0)
    spelled = {**spelled, "added_tokens": [one.model_dump() for one in ordered]}
    found = parse_tokenizer(json.dumps(spelled).encode(), path)
    vocabulary = spelled["model"].get("vocab")
    if not _agree(found, wanted) and isinstance(vocabulary, dict):
        # The library closes gaps between added tokens, but not between those of the model.
        vocabulary.update({name: one.id for name, one in wanted.items()})
        found = parse_tokenizer(json.dumps(spelled).encode(), path)
    if not _agree(found, wanted):
        rule = "there is a gap below the ids of its added tokens, which this kind cannot have"
        raise DataError(f"tokenizer {path}: {rule}")
    return found
