"""What text loses by a tokenizer: characters and unknown tokens; and what only looks special.

A character is lost if what its document's ids decode to has fewer of its kind: a tokenizer that
adds spaces, or moves them, loses nothing by that.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from lengthen.util.errors import DataError

ALLOWED = 0.01  # of the characters may be lost
SHOWN = 5  # kinds of characters or spellings
# How special tokens are spelled, whatever the tokenizer: where they stand in a text, it may be one
# that somebody joined or decoded for another tokenizer.
SPELLINGS = (
    r"<\|[A-Za-z0-9_]{1,40}\|>|<\uff5c[^\uff5c]{1,40}\uff5c>|</?s>|\[(?:CLS|SEP|PAD|UNK|MASK|/?INST)\]"
    r"|<(?:bos|eos|pad|unk|mask|sep|cls|(?:start|end)_of_turn|extra_id_[0-9]{1,3})>"
)


@dataclass
class Losses:
    """Counts that add up."""

    compared: int = 0  # characters whose ids were decoded again
    lost: Counter[str] = field(default_factory=Counter)
    unknown: int = 0  # tokens
    spelled: Counter[str] = field(default_factory=Counter)  # special tokens, as ordinary text

    def add(self, other: "Losses") -> None:
        """Count `other` too."""
        self.compared += other.compared
        self.lost.update(other.lost)
        self.unknown += other.unknown
        self.spelled.update(other.spelled)

    def counted(self) -> dict[str, int]:
        """Return the counts for a manifest; raises DataError where over ALLOWED are lost."""
        lost = self.lost.total()
        if lost > ALLOWED * self.compared:
            raise DataError(
                f"tokenizer: {lost} of {self.compared} characters do not survive it "
                f"({most_of(self.lost)}), the most is {ALLOWED:.0%}; use one that keeps them, such "
                "as train:N, gpt2 or bytes, or take them out of the text"
            )
        return {
            "compared": self.compared,
            "lost": lost,
            "unknown": self.unknown,
            "spelled": self.spelled.total(),
        }


def most_of(counts: Counter[str]) -> str:
    """Return the commonest for a message, with their numbers."""
    shown = [f"{text!a} {count}" for text, count in counts.most_common(SHOWN)]
    return ", ".join(shown + ["..."] * (len(counts) > SHOWN))


class Watch:
    """Compares text with what its ids decode to, where anything can be lost; else a sample."""

    def __init__(self, tokenizer: Tokenizer, *, known: bool) -> None:
        """Watch a tokenizer; `known`: it splits text as GPT-2 does, and nothing else touches it."""
        shape = json.loads(tokenizer.to_str())
        model = shape["model"]
        self._tokenizer = tokenizer
        self._sampled = known and _has_every_byte(shape)
        self._unknown = model.get("unk_id")
        if model.get("unk_token") is not None:
            self._unknown = tokenizer.token_to_id(model["unk_token"])
        unknown = None if self._unknown is None else tokenizer.id_to_token(self._unknown)
        self._unknown_text = unknown or "<unk>"
        added = {one["content"]: one["id"] for one in shape["added_tokens"] if one["special"]}
        self._special = {text: id for text, id in added.items() if id != self._unknown}
        own = sorted(map(re.escape, added), key=len, reverse=True)
        self._spelling = re.compile("|".join([*own, SPELLINGS]))
        self._begins = {text[0] for text in added} | {"<", "["}

    def __call__(self, texts: Sequence[str], ids: Sequence[list[int]]) -> Losses:
        """Look at texts and their ids; raises DataError where text became a special token."""
        losses = Losses()
        for text, own in zip(texts, ids, strict=True):
            # Most texts have none of these characters, and looking for one costs nothing.
            if any(character in text for character in self._begins):
                losses.spelled.update(self._spelled(text, own))
        if self._unknown is not None:
            losses.unknown = sum(own.count(self._unknown) for own in ids)
        some = slice(1) if self._sampled else slice(None)
        self._compare(texts[some], ids[some], losses)
        return losses

    def _spelled(self, text: str, ids: list[int]) -> list[str]:
        found = self._spelling.findall(text)
        for spelling in set(found) & self._special.keys():
            if self._special[spelling] in ids:
                raise DataError(
                    f"tokenizer: makes its special token of text that spells {spelling}; take that "
                    "out of the text, or use another tokenizer"
                )
        return found

    def _compare(self, texts: Sequence[str], ids: Sequence[list[int]], losses: Losses) -> None:
        decoded = self._tokenizer.decode_batch(ids, skip_special_tokens=False)
        for text, again in zip(texts, decoded, strict=True):
            losses.compared += len(text)
            if again != text:
                # What an unknown token decodes to is no character of the text, unless it spells it.
                extra = max(0, again.count(self._unknown_text) - text.count(self._unknown_text))
                kept = again.replace(self._unknown_text, "", extra)
                losses.lost.update(Counter(text) - Counter(kept))


def _has_every_byte(shape: dict[str, Any]) -> bool:
    """Say whether a byte-level tokenizer gives back each byte of a text."""
    decodes = (shape["decoder"] or {}).get("type") == "ByteLevel"
    return decodes and shape["model"]["vocab"].keys() >= set(pre_tokenizers.ByteLevel.alphabet())
