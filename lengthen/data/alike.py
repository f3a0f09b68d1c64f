"""Whether two tokenizers give every text the same ids, however their files are spelled."""

import json
from typing import Any

from tokenizers import Tokenizer


def difference(left: Tokenizer, right: Tokenizer) -> str | None:
    """Return which part of two tokenizers differs, by a name for a message; None: they agree."""
    ours, theirs = _meaning(left), _meaning(right)
    return next((part for part in ours if ours[part] != theirs[part]), None)


def _meaning(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what of a tokenizer.json decides the ids, in parts with names for a message."""
    spelled = json.loads(tokenizer.to_str())
    model = spelled["model"]
    return {
        "tokens": tokenizer.get_vocab(with_added_tokens=True),
        "scores": [score for _, score in own]
        if isinstance(own := model.pop("vocab"), list)
        else [],
        "merges": model.pop("merges", None),
        # No text gives a special token, so which ones are special decides nothing.
        "added tokens": [one["content"] for one in spelled["added_tokens"] if not one["special"]],
        "normalizers": spelled["normalizer"],
        "ways to split": _spelled_out(spelled["pre_tokenizer"] or {}),
        "options": _spelled_out(model),
    }


def _spelled_out(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is off, however that is written, and what moves no id."""
    return {name: value for name, value in options.items() if value and name != "trim_offsets"}
