"""How the package is written: sizes that can be read, and one word for one idea."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import lengthen

PACKAGE = Path(lengthen.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)

# Names that a reader could not guess; what took their place stands behind each.
RETIRED = {
    "adopt": "import_pretrained",
    "ahead": "before",
    "behind": "after",
    "bill": "cost",
    "bind": "with_store",
    "changed": "with_overrides",
    "clock": "schedule, counters",
    "commit": "write",
    "course": "data plan",
    "doubts": "warnings",
    "evidence": "stats",
    "feed": "batch stream",
    "foreign": "external logs",
    "foretold": "estimate",
    "gathered": "all_gather",
    "held": "local_shard",
    "is_cut": "is_sharded",
    "least": "all_reduce_min, barrier",
    "moment": "counters",
    "pass": "epoch, micro-batch",
    "passes": "epochs, gradient accumulation steps",
    "place": "distributed context",
    "plug": "integrations",
    "progress": "train state",
    "reach": "inject",
    "saves": "checkpoint manager",
    "seen": "trial result",
    "session": "run context",
    "shape": "step plan",
    "spikes": "instability",
    "standing": "status",
    "subject": "eval model",
    "told": "summary",
    "wanted": "eval options",
}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions_of(path: Path) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef))


def depth(node: ast.AST, *, chained: bool = False) -> int:
    """Return how deep blocks lie in each other; an `elif` is no deeper than its `if`."""
    inner = 0
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        is_chain = isinstance(node, ast.If) and name == "orelse" and len(children) == 1
        for child in children:
            if isinstance(child, ast.AST):
                inner = max(inner, depth(child, chained=is_chain and isinstance(child, ast.If)))
    return inner + (isinstance(node, BLOCKS) and not chained)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_fits_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    for function in functions_of(path):
        assert (function.end_lineno or 0) - function.lineno < 50, function.name
        assert depth(function) <= 3, function.name


def public_names() -> Iterator[str]:
    for path in FILES:
        yield path.stem
        yield from (part for part in path.relative_to(PACKAGE).parts[:-1])
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (
                    inner.name
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")
                )


def test_no_module_class_or_function_has_a_retired_name() -> None:
    assert {name.lower() for name in public_names()}.isdisjoint(RETIRED)


def test_no_public_name_of_the_package_equals_a_folder() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert folders.isdisjoint(lengthen.__all__)
    assert all(inspect.getdoc(getattr(lengthen, name)) for name in lengthen.__all__)
