"""The pairs of variants that a comparison file names to be judged, and the margin for them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from lengthen.util.errors import SettingError, nearest


def primary_of(given: object, variants: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the primary pairs of a file; raises SettingError for what are none."""
    pairs: list[tuple[str, str]] = []
    for pair in given if isinstance(given, list) and given else [given]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise SettingError("primary", 'must be pairs, such as [["slw", "baseline"]]', pair)
        for name in pair:
            must_be_known("primary", name, variants)
        if pair[0] == pair[1] or {*pair} in map(set, pairs):
            raise SettingError("primary", "has one variant against itself, or a pair twice", pair)
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def margin_of(given: Any, primary: Sequence[object]) -> float:
    """Return the margin of a file in nats; raises SettingError for what is none."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise SettingError("margin", "must be a number of nats above 0", given)
    if not primary:
        raise SettingError("margin", "needs primary, the pairs that it is for", given)
    return float(given)


def must_be_known(setting: str, name: object, variants: Iterable[str]) -> None:
    """Raise SettingError for what is not the name of a variant."""
    if not isinstance(name, str) or name not in variants:
        raise SettingError(setting, "no such variant", name, nearest(str(name), variants))
