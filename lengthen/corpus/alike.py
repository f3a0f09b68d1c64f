"""Whether two tokenizers give every text the same ids, however their files are spelled."""

import json
from typing import Any

from tokenizers import Tokenizer


def difference(left: Tokenizer, right: Tokenizer) -> str | None:
    """Return which part of two tokenizers differs, by a name for a message; None: they agree."""
    ours, theirs = _meaning(left.to_str()), _meaning(right.to_str())
    return next((part for part in ours if ours[part] != theirs[part]), None)


def _meaning(text: str) -> dict[str, Any]:
    """Return what of a tokenizer.json decides the ids, in parts with names for a message."""
    spelled = json.loads(text)
    model = spelled["model"]
    return {
        "tokens": model.pop("vocab", None),
        "merges": model.pop("merges", None),
        "added tokens": {one["id"]: one["content"] for one in spelled["added_tokens"]},
        "normalizers": spelled["normalizer"],
        "ways to split": _spelled_out(spelled["pre_tokenizer"] or {}),
        "options": _spelled_out(model),
    }


def _spelled_out(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is off, however that is written, and what moves no id."""
    return {name: value for name, value in options.items() if value and name != "trim_offsets"}
