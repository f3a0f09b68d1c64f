"""WikiText's spacing undone, so that a tokenizer meets text as people write it."""

import re
from collections.abc import Callable

JOINED = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
MARKS = (":", ";", ".", "!", "?", ",")
PAIRS = ("()", "[]", "{}", '""', "''")
HEADINGS = (("= = = =", "===="), ("= = =", "==="), ("= =", "=="))
LINES = ((" \n", "\n"), ("\n ", "\n"))

Rule = Callable[[str], str]


def detokenise(text: str) -> str:
    """Return the text by the inversion that GPT-2's and Megatron's figures have made usual.

    Quotation marks pair up in the order in which they come, also over the ends of lines, so a text
    in pieces gives another result than the whole. Of the published rules one is left out, for an
    apostrophe ahead of a digit: as it is spelled it fits nothing in the set.
    """
    for rule in RULES:
        text = rule(text)
    return text


def _replaced(old: str, new: str) -> Rule:
    return lambda text: text.replace(old, new)


def _closed(left: str, right: str) -> Rule:
    """Return the rule that takes the spaces inside a pair of brackets or quotation marks."""
    begin, end = re.escape(left), re.escape(right)
    pattern = re.compile(rf"{begin}\s*([^{end}]*?)\s*{end}")
    return lambda text: pattern.sub(rf"{left}\1{right}", text)


# In this order: brackets take what the marks ahead of them have left, headings the longest first.
RULES: tuple[Rule, ...] = (
    _replaced("s '", "s'"),
    *(_replaced(*pair) for pair in JOINED),
    *(_replaced(f" {mark} ", f"{mark} ") for mark in MARKS),
    *(_closed(*pair) for pair in PAIRS),
    *(_replaced(*pair) for pair in HEADINGS),
    _replaced(" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"),
    *(_replaced(*pair) for pair in LINES),
    _replaced(" N ", " 1 "),
    _replaced(" 's", "'s"),
)
