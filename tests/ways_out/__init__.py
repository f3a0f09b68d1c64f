"""Every way out that the package prints, found in its source, and which test takes which.

A way out is what an error, a hint, a note or a last line tells its reader to do: an option, a
command, a setting, a package to install, a word of advice that begins with a verb. A test that
brings the package to say it, does what it says and sees it work names it with `takes`.
"""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]

VERBS = (
    "add|check|choose|compute|copy|did you mean|fetch|free|give|import|install|judge|leave|lower|"
    "mend|move|name|one of|prepare|pipe|put|raise|remove|rename|resume with|return|run the|"
    "run it|save|say which|set|split|start|take|train anew|try|use|wait|write it"
)
WAY_OUT = re.compile(
    rf"(?<![\w-])--[a-z]|`lengthen |^lengthen [a-z]| lengthen [a-z]+ \{{|pip install"
    rf"|(?:^|[;:,?] |\bor |\band |\bto )(?:{VERBS})\b"
)
Test = TypeVar("Test", bound=Callable[..., object])


def takes(*_texts: str) -> Callable[[Test], Test]:
    """Say that a test takes the ways out that have these texts; `{}` is what is filled in."""
    return lambda test: test


@cache
def ways_out() -> dict[str, str]:
    """Return every way out of the package by its text, with the files that print it."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "lengthen").rglob("*.py")):
        for text in _texts_of(ast.parse(path.read_text(encoding="utf-8"))):
            if " " in text.strip() and WAY_OUT.search(text):
                found[text] = f"{found.get(text, '')} {path.relative_to(ROOT)}".strip()
    return found


@cache
def taken() -> dict[str, str]:
    """Return every text that a test names with `takes`, with the test that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        if "@takes" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            for call in getattr(node, "decorator_list", ()):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "takes":
                    for text in map(_text_of, call.args):
                        found[text or ""] = f"{path.relative_to(ROOT)}::{getattr(node, 'name', '')}"
    return found


def _text_of(node: ast.AST) -> str | None:
    """Return the text of a literal, with `{}` where something is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(part) or "{}" for part in node.values)
    return None


def _texts_of(tree: ast.Module) -> Iterator[str]:
    """Yield the texts in a file but those of docstrings, of help and of patterns."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in ast.walk(node) if part is not node}
        name = getattr(getattr(node, "func", None), "attr", "") or getattr(
            getattr(node, "func", None), "id", ""
        )
        if name in ("add_argument", "Command", "compile", "ArgumentParser", "Parser"):
            skipped |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):
        text = _text_of(node)
        if text is not None and id(node) not in skipped:
            yield text
