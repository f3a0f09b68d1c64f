"""Tokenizers in files, read in one way by `prepare`, `import`, `sample` and `eval`.

In a folder: tokenizer.json, else GPT-2's two files; then every token that Transformers wrote beside
them (added_tokens_decoder and the named tokens of tokenizer_config.json, added_tokens.json,
special_tokens_map.json). A tokenizer.json that is named itself is read with the files beside it; a
file of another name is read alone. Where two files differ, the first counts.

The separator is the token that was asked for, else the folder's `eos_token`, else the first of
KNOWN_SEPARATORS that the vocabulary has.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers import __version__ as tokenizers_version

from lengthen.util.disk import lfs_pointer, read_limited
from lengthen.util.errors import NAME, DataError, SettingError, cut, nearest, one_line, shown
from lengthen.util.overwrite import json_keys

FILE_LIMIT = 64 * 2**20  # bytes of a tokenizer's file
MOST_IDS = 2**24  # tokens of a vocabulary
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
# Byte-level BPE is stored as two files, under OpenAI's own names or those of the hub.
VOCABULARY_NAMES = ("vocab.json", "encoder.json")
MERGES_NAMES = ("merges.txt", "vocab.bpe")
# Whose two files are split as GPT-2's are; of others the files do not say how.
GPT2_CLASSES = ("GPT2", "Roberta", "Bart", "CodeGen", "PreTrainedTokenizer")
WAY_OUT = "Transformers writes it: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
SEPARATOR = "<|endoftext|>"
KNOWN_SEPARATORS = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|im_end|>")
LISTED_TOKENS = ("additional_special_tokens", "extra_special_tokens")
Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer for whole documents, and the token that stands after each of them."""

    tokenizer: Tokenizer
    separator: int

    @property
    def separator_text(self) -> str:
        """How the separator is spelled; no text gives it. Raises DataError where it is none."""
        name = self.tokenizer.id_to_token(self.separator)
        if name is None:
            raise DataError(f"tokenizer: has no token {self.separator}, its separator")
        return name

    def files(self) -> dict[str, bytes]:
        """Return by name the files of a folder that `read_tokenizer` gives the same from."""
        config = json.dumps({"eos_token": self.separator_text}).encode()
        return {TOKENIZER: self.tokenizer.to_str().encode(), TOKENIZER_CONFIG: config}


class AddedToken(BaseModel):
    """A token beside those of the model, with the names that a tokenizer.json has."""

    model_config = ConfigDict(frozen=True)

    content: str
    id: int | None = None  # None: the model's, if it has the token
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False  # never made of a text


def _as_object(token: object) -> object:
    return {"content": token} if isinstance(token, str) else token


def _as_list(tokens: object) -> object:
    return list(tokens.values()) if isinstance(tokens, dict) else tokens or []


Token = Annotated[AddedToken, BeforeValidator(_as_object)]
TokenList = Annotated[list[Token], BeforeValidator(_as_list)]


def read_tokenizer(path: Path, separator: str | None = None) -> TextTokenizer:
    """Return the tokenizer in a folder or a file, with every token that was added to it.

    Links are followed: the hub's cache is made of them. Raises SettingError for a folder without a
    tokenizer and for a `separator` that it does not have, DataError for files that cannot be used,
    a tokenizer without a separator or with one that text can spell, and for dropout.
    """
    folder = path if os.path.isdir(path) else path.parent if path.name == TOKENIZER else None
    config = _read_json(folder / TOKENIZER_CONFIG) if folder else {}
    special = _read_json(folder / SPECIAL_TOKENS) if folder else {}
    tokenizer, content = _read_alone(path, config)
    listed = _validate(path, TokenList, content.get("added_tokens"))
    beside = _tokens_beside(folder, config, special) if folder else []
    model = tokenizer.get_vocab(with_added_tokens=False)
    added = _with_ids(path, model, [*listed, *beside])
    eos = config.get("eos_token") or special.get("eos_token")
    declared = _validate(path, Token, eos).content if eos else None
    declared = _store_separator(folder, tokenizer) or declared
    end = _separator(path, model, added, separator, declared)
    added[end.content] = end
    if added != {one.content: one for one in listed} or not _has_ids(tokenizer, added):
        tokenizer = _rebuild(path, content, added)
    assert end.id is not None
    return check_tokenizer(TextTokenizer(tokenizer, end.id), str(path))


def parse_tokenizer(data: bytes, path: Path) -> Tokenizer:
    """Return the tokenizer in the bytes of a tokenizer.json; raises DataError, which names `path`.

    What a file may ask for beside the ids of a text is off: cutting, padding, tokens around it.
    """
    try:
        tokenizer: Tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exceptions
        reason = f"not a {TOKENIZER} for tokenizers {tokenizers_version} ({one_line(error)})"
        raise DataError(f"tokenizer {path}: {lfs_pointer(data) or reason}") from None
    _check_ids(path, tokenizer.get_vocab(with_added_tokens=True).values())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = None
    # Not kept in the file: without it a text that spells a separator would forge one.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _check_ids(path: Path, ids: Iterable[int]) -> None:
    # The library takes memory up to the largest id, whatever lies below it.
    if (largest := max(ids, default=0)) >= MOST_IDS:
        raise DataError(f"tokenizer {path}: has a token with id {largest}, over {MOST_IDS - 1}")


def check_tokenizer(candidate: TextTokenizer, place: str) -> TextTokenizer:
    """Refuse what would make a false store: a separator that text can spell, or chance."""
    tokenizer, number = candidate.tokenizer, candidate.separator
    name = candidate.separator_text
    # The second is how an ordinary token reads, such as a line end that is spelled otherwise.
    texts = (f"a{name} {name}", tokenizer.decode([number], skip_special_tokens=False))
    if any(number in tokenizer.encode(text, add_special_tokens=False).ids for text in texts):
        rule = f"text that spells {shown(name)} becomes the separator"
        way_out = "--separator names another, a special token; or use another, such as train:8192"
        raise DataError(f"tokenizer {place}: {rule}; {way_out}")
    if json.loads(tokenizer.to_str())["model"].get("dropout"):
        rule = "has dropout, so a text has other tokens each time; set 0"
        raise DataError(f"tokenizer {place}: {rule}")
    return candidate


def _read_alone(path: Path, config: Json) -> tuple[Tokenizer, Json]:
    """Return the tokenizer without what lies beside it, and the content of its tokenizer.json."""
    file = path / TOKENIZER if os.path.isdir(path) else path
    if file == path or file.is_file():
        data = read_limited(file.resolve(), FILE_LIMIT)
        # The library lets some files pass that are no JSON.
        return parse_tokenizer(data, path), _validate(path, Json, data)
    merges_file = first_file(path, MERGES_NAMES)
    if merges_file is None:
        rule = f"the folder must hold {TOKENIZER}, {' or '.join(MERGES_NAMES)}"
        raise SettingError("tokenizer", rule, str(path), WAY_OUT)
    kind = config.get("tokenizer_class")
    if isinstance(kind, str) and not kind.startswith(GPT2_CLASSES):
        rule = f"without {TOKENIZER} its files do not say how a {shown(kind)} splits text"
        raise DataError(f"tokenizer {path}: {rule}; {WAY_OUT}")
    tokenizer = _read_gpt2_files(merges_file, config.get("add_prefix_space") is True)
    return tokenizer, json.loads(tokenizer.to_str())


def first_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of the files that is in the folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def byte_level_bpe(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], prefix_space: bool = False
) -> Tokenizer:
    """Return GPT-2's kind of tokenizer; it has no special token yet."""
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _read_gpt2_files(merges_file: Path, prefix_space: bool) -> Tokenizer:
    """Return the tokenizer of GPT-2's two files; of the merges alone, with the ids of GPT-2."""
    vocabulary_file = first_file(merges_file.parent, VOCABULARY_NAMES)
    # The hub's cache holds links into its own store of files.
    data = read_limited(merges_file.resolve(), FILE_LIMIT)
    numbered = read_limited(vocabulary_file.resolve(), FILE_LIMIT) if vocabulary_file else None
    try:
        lines = [line for line in data.decode("utf-8").split("\n") if line]
        pairs = [line.split(" ") for line in lines if not line.startswith("#version")]
        merges = [(left, right) for left, right in pairs]
        if numbered is not None:
            vocabulary = json.loads(numbered)
        else:  # the 256 bytes, a token for each merge, the separator
            alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
            names = [*alphabet, *(left + right for left, right in merges), SEPARATOR]
            vocabulary = {name: number for number, name in enumerate(names)}
        tokenizer = byte_level_bpe(vocabulary, merges, prefix_space)
    except Exception as error:  # the library raises bare Exceptions
        rule = "is no GPT-2 tokenizer, with two tokens a line"
        raise DataError(f"tokenizer {merges_file}: {rule} ({one_line(error)})") from None
    _check_ids(merges_file, tokenizer.get_vocab().values())
    return tokenizer


def _read_json(file: Path) -> Json:
    """Return the object in a file, an empty one where there is no file; raises DataError."""
    data = read_limited(file.resolve(), FILE_LIMIT) if os.path.lexists(file) else b"{}"
    return _validate(file, Json, data)


def _validate(file: Path, kind: type[T], content: object) -> T:
    """Return a file's bytes of JSON, or a part of it, as what it must be; raises DataError."""
    adapter = TypeAdapter(kind)
    try:
        if isinstance(content, bytes):
            return adapter.validate_json(content)
        return adapter.validate_python(content)
    except ValidationError as error:
        raise DataError(f"file {file}: cannot be used ({first_problem(error)})") from None


def first_problem(error: ValidationError) -> str:
    """Return the place and the cause of the first thing that is wrong in a file."""
    first = error.errors(include_url=False)[0]
    place = cut(".".join(map(str, first["loc"])) or "as a whole", NAME)
    return f"{place}: {first['msg']}"


def _tokens_beside(folder: Path, config: Json, special: Json) -> list[AddedToken]:
    """Return the tokens that the files beside a tokenizer.json name, those with an id first."""
    file = folder / TOKENIZER_CONFIG
    named = [*_special_tokens(file, config), *_special_tokens(folder / SPECIAL_TOKENS, special)]
    names = {one.content for one in named}
    decoder = _validate(file, dict[int, Token], config.get("added_tokens_decoder") or {})
    numbered = [token.model_copy(update={"id": number}) for number, token in decoder.items()]
    file = folder / ADDED_TOKENS
    numbered += [
        # Transformers looks for an ordinary one in the normalised text.
        AddedToken(content=name, id=number, special=name in names, normalized=name not in names)
        for name, number in _validate(file, dict[str, int], _read_json(file)).items()
    ]
    return [*numbered, *named]


def _special_tokens(file: Path, config: Json) -> list[AddedToken]:
    named = [value for name, value in config.items() if name.endswith("_token")]
    # Not what is off, and no switch such as `add_bos_token`.
    named = [value for value in named if value and isinstance(value, str | dict)]
    tokens = _validate(file, TokenList, named)
    for name in LISTED_TOKENS:
        tokens += _validate(file, TokenList, config.get(name))
    return [token.model_copy(update={"special": True}) for token in tokens]


def _store_separator(folder: Path | None, tokenizer: Tokenizer) -> str | None:
    """Return the separator of a token store, whose tokenizer can make another store."""
    manifest = folder / "manifest.json" if folder else None
    if manifest is None or not manifest.is_file() or "separator" not in json_keys(manifest):
        return None
    number = _read_json(manifest).get("separator")
    return next((name for name, id in tokenizer.get_vocab().items() if id == number), None)


def _with_ids(
    path: Path, vocabulary: dict[str, int], tokens: list[AddedToken]
) -> dict[str, AddedToken]:
    """Return the added tokens by their text, each with its id; the first of a text counts.

    A token that has an id nowhere is none: no row of an embedding was made for it.
    """
    names = {number: name for name, number in vocabulary.items()}
    added: dict[str, AddedToken] = {}
    for one in tokens:
        number = vocabulary.get(one.content, one.id)
        if not one.content or one.content in added or number is None:
            continue
        _check_ids(path, [number])
        if names.setdefault(number, one.content) != one.content or number < 0:
            rule = f"the added token {shown(one.content)} has id {number}, that of"
            raise DataError(f"tokenizer {path}: {rule} {shown(names[number])}")
        added[one.content] = one.model_copy(update={"id": number})
    return added


def _separator(
    path: Path,
    vocabulary: dict[str, int],
    added: dict[str, AddedToken],
    wanted: str | None,
    declared: str | None,
) -> AddedToken:
    """Return the token that was asked for, else the declared one, else a known one."""
    names = vocabulary.keys() | added.keys()
    if wanted is not None and wanted not in names:
        special = [name for name, one in added.items() if one.special]
        hint = nearest(wanted, special) if special else "it has no special token"
        raise SettingError("separator", f"the tokenizer {path} has no such token", wanted, hint)
    name = wanted or next((one for one in (declared, *KNOWN_SEPARATORS) if one in names), None)
    if name is None:
        rule = f"its eos_token {shown(declared)} has no id" if declared else "names no eos_token"
        rule = f"{rule}, and it has none of {', '.join(KNOWN_SEPARATORS)}, to put between documents"
        way_out = f"name one: `prepare --separator TOKEN`, or eos_token in {TOKENIZER_CONFIG}"
        raise DataError(f"tokenizer {path}: {rule}; {way_out}")
    token = added.get(name) or AddedToken(content=name, id=vocabulary[name])
    if token.special:
        return token
    return token.model_copy(update={"special": True, "normalized": False})


def _has_ids(tokenizer: Tokenizer, added: dict[str, AddedToken]) -> bool:
    return all(tokenizer.token_to_id(name) == one.id for name, one in added.items())


def _rebuild(path: Path, content: Json, added: dict[str, AddedToken]) -> Tokenizer:
    """Return the tokenizer with exactly the tokens `added`, each with its id."""
    ordered = sorted(added.values(), key=lambda one: one.id or 0)
    content = {**content, "added_tokens": [one.model_dump() for one in ordered]}
    tokenizer = parse_tokenizer(json.dumps(content).encode(), path)
    if not _has_ids(tokenizer, added) and isinstance(content["model"].get("vocab"), dict):
        # The library closes gaps between added tokens, but not between those of the model.
        content["model"]["vocab"].update({name: one.id for name, one in added.items()})
        tokenizer = parse_tokenizer(json.dumps(content).encode(), path)
    if not _has_ids(tokenizer, added):
        raise DataError(f"tokenizer {path}: no gap can be below the ids of its added tokens")
    return tokenizer
