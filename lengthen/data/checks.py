"""What `prepare` checks on its way: sources reached twice, repeated documents, lossy tokenizers."""

import hashlib
import io
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from lengthen.data.decompress import DamagedFileError, DecompressedFile, UnsupportedFileError
from lengthen.data.readers import Parts, has_rows
from lengthen.data.sources import Source
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError

HEAD_BYTES = 2**16  # of a source that are compared before all of it is
MOST_DOCUMENTS = 2**23  # of a split that are remembered, at 8 to 16 bytes each
MOST_LEAKED = 0.1  # of the characters that validate may stand in the training part
MOST_LOST = 0.01  # of the characters that were compared
LISTED = 5  # kinds of characters or spellings in a message
# How special tokens are spelled, whatever the tokenizer: where they stand in a text, it may be one
# that somebody joined or decoded for another tokenizer.
SPECIAL_SPELLINGS = (
    r"<\|[A-Za-z0-9_]{1,40}\|>|<\uff5c[^\uff5c]{1,40}\uff5c>|</?s>|\[(?:CLS|SEP|PAD|UNK|MASK|/?INST)\]"
    r"|<(?:bos|eos|pad|unk|mask|sep|cls|(?:start|end)_of_turn|extra_id_[0-9]{1,3})>"
)


def check_sources_differ(sources: Sequence[Source]) -> None:
    """Raise SettingError where one file, or the same text, compressed or not, is reached twice."""
    for candidates in _equal_groups(sources, partial(_digest, limit=HEAD_BYTES)):
        for first, second, *_ in _equal_groups(candidates, _digest):
            rule = f"holds the same as {first.name!r}, and would be read twice"
            hint = "name one of them; --valid-files takes another text to validate with"
            raise SettingError("source", rule, second.name, hint)


def _equal_groups(sources: Sequence[Source], key: Callable[[Source], object]) -> list[list[Source]]:
    """Return the sources that equal others by a key, group by group, in order."""
    groups: dict[object, list[Source]] = {}
    for source in sources:
        groups.setdefault(key(source), []).append(source)
    return [group for group in groups.values() if len(group) > 1]


def _digest(source: Source, limit: int | None = None) -> object:
    """Return a hash of a source's first bytes, or of all; of a text's as they are decompressed."""
    is_text = source.kind in ("txt", "jsonl")
    if limit is None and not has_rows(source):
        return source.path.resolve()
    try:
        raw = DecompressedFile(source.path) if is_text else source.path.open("rb", buffering=0)
        with io.BufferedReader(raw, HEAD_BYTES) as file:
            if limit is None:
                return hashlib.file_digest(file, "sha256").digest()
            if head := file.read(limit):
                return source.kind, hashlib.sha256(head).digest()
    except (OSError, DamagedFileError, UnsupportedFileError):  # the reader will report it
        pass
    return source.path.resolve()


class DuplicateCounter:
    """Remembers a hash of each document; counts those repeated, and those that train and validate.

    Of very many documents, only those whose hash a power of two divides are remembered.
    """

    def __init__(self) -> None:
        self._every = 1
        self._hashes = {"train": array("Q"), "valid": array("Q")}
        self._valid_sizes = array("Q")  # characters of each validation document

    def watch(self, parts: Parts) -> Parts:
        """Yield all parts as they come, and remember their documents."""
        digest, size = hashlib.blake2b(digest_size=8), 0
        for part in parts:
            digest.update(part.text.encode())
            size += len(part.text)
            if part.is_last:
                self._add(part.split, int.from_bytes(digest.digest()), size)
                digest, size = hashlib.blake2b(digest_size=8), 0
            yield part

    def _add(self, split: str, value: int, size: int) -> None:
        if value % self._every:
            return
        self._hashes[split].append(value)
        if split == "valid":
            self._valid_sizes.append(size)
        if len(self._hashes[split]) > MOST_DOCUMENTS:
            self._thin(2 * self._every)

    def _thin(self, every: int) -> None:
        # Chosen by the hash, so that equal documents stay or go together.
        self._every = every
        sizes = _as_numpy(self._valid_sizes)[_as_numpy(self._hashes["valid"]) % self._every == 0]
        self._valid_sizes = array("Q", sizes.tobytes())
        for split, hashes in self._hashes.items():
            values = _as_numpy(hashes)
            self._hashes[split] = array("Q", values[values % self._every == 0].tobytes())

    def save(self, disk: Disk, path: Path) -> None:
        """Write what is remembered, so that it can be added to that of other parts of a corpus."""
        train, valid = self._hashes.values()
        head = array("Q", [self._every, len(train), len(valid)])
        data = (head + train + valid + self._valid_sizes).tobytes()
        disk.write_file(path, hashlib.sha256(data).digest() + data)

    def add_saved(self, path: Path) -> None:
        """Remember what another counter has saved; raises DataError where that is damaged."""
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise DataError(f"file {path}: damaged or missing; prepare its part again")
        values = np.frombuffer(data, np.uint64, offset=32)
        every, trains, valids = map(int, values[:3])
        train, valid, sizes = np.split(values[3:], [trains, trains + valids])
        if every > self._every:
            self._thin(every)
        train, kept = train[train % self._every == 0], valid % self._every == 0
        self._hashes["train"].frombytes(train.tobytes())
        self._hashes["valid"].frombytes(valid[kept].tobytes())
        self._valid_sizes.frombytes(sizes[kept].tobytes())
        while max(map(len, self._hashes.values())) > MOST_DOCUMENTS:
            self._thin(2 * self._every)

    def counts(self) -> dict[str, int]:
        """Return how many documents are `repeated`, and how many that validate are `leaked`.

        Estimates, where there are over MOST_DOCUMENTS. Raises DataError where more than MOST_LEAKED
        of the validation part is leaked.
        """
        train, valid = map(_as_numpy, self._hashes.values())
        sizes, in_train = _as_numpy(self._valid_sizes), np.isin(valid, train)
        leaked = self._every * int(in_train.sum())
        if sizes[in_train].sum() > MOST_LEAKED * sizes.sum():
            raise DataError(
                f"corpus: {leaked} of {self._every * len(valid)} validation documents also stand "
                "in the training part, word for word; is a text there twice, packed and unpacked "
                "perhaps? Name each once, or take repeated documents out, or give --valid 0 and no "
                "--valid-files"
            )
        distinct = len(np.unique(np.concatenate([train, valid])))
        repeated = self._every * (len(train) + len(valid) - distinct)
        return {"repeated": repeated, "leaked": leaked}


def _as_numpy(values: "array[int]") -> NDArray[np.uint64]:
    return np.frombuffer(values, np.uint64)


@dataclass
class RoundTripCounts:
    """What text lost by a tokenizer, and what in it only looks special; counts that add up.

    A character is lost if what its document's ids decode to has fewer of its kind: a tokenizer that
    adds spaces, or moves them, loses nothing by that.
    """

    compared: int = 0  # characters whose ids were decoded again
    lost: Counter[str] = field(default_factory=Counter)  # characters
    unknown: int = 0  # tokens
    spelled: Counter[str] = field(default_factory=Counter)  # special tokens, as ordinary text

    def add(self, other: "RoundTripCounts") -> None:
        """Count `other` too."""
        self.compared += other.compared
        self.lost.update(other.lost)
        self.unknown += other.unknown
        self.spelled.update(other.spelled)

    def counts(self) -> dict[str, int]:
        """Return the totals; raises DataError where more than MOST_LOST is lost."""
        lost = self.lost.total()
        if lost > MOST_LOST * self.compared:
            raise DataError(
                f"tokenizer: {lost} of {self.compared} characters do not survive it"
                f"{list_most_common(self.lost)}, the most is {MOST_LOST:.0%}; use one that keeps "
                "them, such as train:N, gpt2 or bytes, or take them out of the text"
            )
        totals = {"compared": self.compared, "unknown": self.unknown}
        return {**totals, "lost": lost, "spelled": self.spelled.total()}


def list_most_common(counts: Counter[str]) -> str:
    """Return the commonest with their numbers, in brackets for the end of a message."""
    names = [f"{text!a} {count}" for text, count in counts.most_common(LISTED)]
    more = ["..."] * (len(counts) > LISTED)
    return f" ({', '.join(names + more)})" if names else ""


class RoundTripChecker:
    """Compares text with what its ids decode to, where anything can be lost; else a sample."""

    def __init__(self, tokenizer: Tokenizer, *, splits_as_gpt2: bool) -> None:
        """Count for a tokenizer; `splits_as_gpt2`: as `encode.can_be_cut` says."""
        content = json.loads(tokenizer.to_str())
        model = content["model"]
        self._tokenizer = tokenizer
        # A byte-level tokenizer with all the bytes gives each of them back.
        decodes = (content["decoder"] or {}).get("type") == "ByteLevel"
        alphabet = set(pre_tokenizers.ByteLevel.alphabet())
        self._sampled = splits_as_gpt2 and decodes and model["vocab"].keys() >= alphabet
        self._unknown = model.get("unk_id")
        if model.get("unk_token") is not None:
            self._unknown = tokenizer.token_to_id(model["unk_token"])
        unknown = None if self._unknown is None else tokenizer.id_to_token(self._unknown)
        self._unknown_text = unknown or "<unk>"
        special = {one["content"]: one["id"] for one in content["added_tokens"] if one["special"]}
        self._special = {text: id for text, id in special.items() if id != self._unknown}
        own = sorted(map(re.escape, special), key=len, reverse=True)
        self._spelling = re.compile("|".join([*own, SPECIAL_SPELLINGS]))
        self._first_characters = {text[0] for text in special} | {"<", "["}

    def count(self, texts: Sequence[str], ids: Sequence[list[int]]) -> RoundTripCounts:
        """Return what is lost of texts in their ids.

        Raises DataError where text became a special token.
        """
        lost: Counter[str] = Counter()
        spelled: Counter[str] = Counter()
        for text, own in zip(texts, ids, strict=True):
            # Most texts have none of these characters, and looking for one costs nothing.
            if any(character in text for character in self._first_characters):
                spelled.update(self._special_spellings(text, own))
        unknown = 0 if self._unknown is None else sum(own.count(self._unknown) for own in ids)
        some = slice(1) if self._sampled else slice(None)
        decoded = self._tokenizer.decode_batch(ids[some], skip_special_tokens=False)
        for text, again in zip(texts[some], decoded, strict=True):
            if again != text:
                # What an unknown token decodes to is no character of the text, unless it spells it.
                extra = max(0, again.count(self._unknown_text) - text.count(self._unknown_text))
                kept = again.replace(self._unknown_text, "", extra)
                lost.update(Counter(text) - Counter(kept))
        return RoundTripCounts(sum(map(len, texts[some])), lost, unknown, spelled)

    def _special_spellings(self, text: str, ids: list[int]) -> list[str]:
        spellings = self._spelling.findall(text)
        for spelling in set(spellings) & self._special.keys():
            if self._special[spelling] in ids:
                raise DataError(
                    f"tokenizer: makes its special token of text that spells {spelling}; take that "
                    "out of the text, or use another tokenizer"
                )
        return spellings
