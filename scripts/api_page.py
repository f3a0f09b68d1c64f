"""Write docs/api.md from the docstrings of the public names: python -m scripts.api_page."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lengthen

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
SECTIONS = {
    "Prepare and train": ["train", "resume"],
    "After training": ["load", "read_metrics"],
    "Pacings": ["Linear", "Root", "Staged", "Adaptive", "Constant"],
}
HEAD = """\
# Python API

Everything the command line does is one call, with the same words: an option `--out` is the argument
`out=`, settings such as `--pacing.start 8` are `settings={"pacing.start": 8}` or
`settings={"pacing": {"start": 8}}`. Paths are text or `pathlib.Path`. A call prints nothing but its
progress, on the error stream, and returns a value. `import lengthen` takes next to nothing; PyTorch
is imported by the first call that computes.

What you can mend is an exception of `lengthen.util.errors`: `SettingError` (also a `ValueError`),
`DataError`, `CheckpointError`, `BusyError`, `UnstableError`, `MemoryLimitError`, `StorageError`,
`PeerError` and `StoppedError`, all of them `LengthenError`, each with a line that says what to do.

The examples run in a directory with a token store `store` and a small run `runs/first`, after
`import lengthen, torch`. This page is made by `scripts/api_page.py` from the docstrings.
"""


def page() -> str:
    """Return the page as it should be."""
    return "\n".join([HEAD, *(part for title in SECTIONS for part in _section(title))])


def _section(title: str) -> Iterator[str]:
    yield f"## {title}\n"
    for name in SECTIONS[title]:
        value = getattr(lengthen, name)
        text, example = _parts(inspect.getdoc(value) or "")
        yield f"### `{name}`\n\n```python\n{_signature(name, value)}\n```\n\n{text}\n"
        yield from (f"- {line}" for line in _members(value))
        yield f"\n```python\n{example}\n```\n"


def _parts(doc: str) -> tuple[str, str]:
    """Return a docstring's text and its example; an indented equation becomes a block of code."""
    text, _, example = doc.partition("\n>>> ")
    equation = re.compile(r"\n\n((?: {4}.*\n)+)")
    return equation.sub(r"\n\n```text\n\1```\n", text.strip()), f">>> {example}"


def _signature(name: str, value: Any) -> str:
    """Return how a name is called, an argument a line where it has several."""
    call = value.__init__ if inspect.isclass(value) else value
    parameters = [one for one in inspect.signature(call).parameters.values() if one.name != "self"]
    words = [str(one).replace("'", "").replace("pathlib._local.", "") for one in parameters]
    first_named = next((i for i, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), -1)
    if first_named >= 0:
        words.insert(first_named, "*")
    line = f"{name}({', '.join(words)})"
    return line if len(line) < 80 else "\n".join([f"{name}(", *(f"    {w}," for w in words), ")"])


def _members(value: Any) -> Iterator[str]:
    """Yield the public methods and properties of a class with the first line of each."""
    for name, member in vars(value).items() if inspect.isclass(value) else ():
        doc = inspect.getdoc(getattr(value, name))
        if not name.startswith("_") and doc and (callable(member) or isinstance(member, property)):
            yield f"`{name}`: {doc.partition('.' + chr(10))[0].splitlines()[0]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
