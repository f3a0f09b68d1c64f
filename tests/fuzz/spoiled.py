"""Odd values, and good files with something wrong in them."""

import copy
import json
from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

HUGE = [2**31, 2**53 + 1, 2**63, 2**64, 10**15, 10**30, 10**400, -1, -(10**30)]
NASTY = ["", "../x", "/etc/passwd", "\n\x1b[31m", "<script>", "\u202e", "\x00", "1e999", "x" * 3000]

numbers = st.integers(-3, 70) | st.sampled_from(HUGE) | st.floats()
words = st.sampled_from(NASTY) | st.text(max_size=6)
scalars = st.none() | st.booleans() | numbers | words
json_values: SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
# What no parser likes: too deep, too long, no text at all.
HOSTILE = [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff\xfe\x00", b"\x00" * 100, b""]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) in nested lists and dictionaries."""
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in inside:
        yield value, key
        yield from _places(below)


@st.composite
def tables_near(draw: DrawFn, good: Any, values: SearchStrategy[Any] = json_values) -> Any:
    """Draw `good` with one to three values replaced, lost or added."""
    spoiled = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(spoiled))
        if not places:
            return spoiled
        container, key = draw(st.sampled_from(places))
        if (way := draw(st.sampled_from(["replace", "replace", "lose", "add"]))) == "replace":
            container[key] = draw(values)
        elif way == "lose":
            del container[key]
        elif isinstance(container, dict):
            container[draw(words)] = draw(values)
        else:
            container.insert(key, draw(values))
    return spoiled


@st.composite
def bytes_near(draw: DrawFn, good: bytes) -> bytes:
    """Draw `good` cut, with bytes changed, taken out or put in; or something else altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(HOSTILE) | st.binary(max_size=200))
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        put = st.binary(max_size=6) | st.sampled_from([b"", b"\n", b'"', b"{", b"nan", b"1e999"])
        data[start:end] = draw(put)
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def json_near(good: Any) -> SearchStrategy[bytes]:
    """Draw the file of a JSON document with something wrong in its values or its bytes."""
    text = json.dumps(good)
    return tables_near(good).map(lambda value: json.dumps(value).encode()) | bytes_near(
        text.encode()
    )
