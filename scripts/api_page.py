"""Write docs/api.md from the docstrings of the public names: python -m scripts.api_page."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast, get_type_hints

import lengthen
from lengthen.core.settings import Doc

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
SECTIONS = {
    "Prepare and train": ["prepare", "Store", "train", "resume", "branch"],
    "Plan and compare": ["plan", "compare", "tune"],
    "After training": ["load", "evaluate", "report", "read_metrics"],
    "Pacings": ["Linear", "Root", "Doubling", "Staged", "Adaptive", "Constant", "Custom"],
    "In your own loop": ["DataPlan", "BatchStream", "RunLog"],
}
RESULTS = [
    "data.prepare.Summary",
    "training.loop.RunSummary",
    "experiments.plans.Plans",
    "planning.forecast.Forecast",
    "planning.plan.Plan",
    "experiments.compare.compare.ComparisonResult",
    "experiments.tune.tune.Tuning",
    "exchange.pretrained.TrainedModel",
    "evaluation.evaluate.Evaluations",
    "evaluation.results.Result",
    "evaluation.results.Outcome",
    "evaluation.results.Measure",
    "reporting.report.Report",
    "run.metrics.Metrics",
    "run.records.StepRecord",
    "run.records.EvalRecord",
]
HEAD = """\
# Python API

The commands that train, plan and compare are calls with the same names: an option `--out` is the
argument `out=`, settings such as `--pacing.start 8` are `settings={"pacing.start": 8}` or
`settings={"pacing": {"start": 8}}`. Paths are text or `pathlib.Path`. A call prints nothing but its
progress, on the error stream, and returns a value. `import lengthen` is fast: the first call that
computes imports PyTorch.

Mistakes that you can correct raise exceptions of `lengthen.util.errors`: `SettingError` (also a
`ValueError`), `DataError`, `CheckpointError`, `BusyError`, `UnstableError`, `MemoryLimitError`,
`StorageError`, `PeerError` and `StoppedError`, all of them `LengthenError`, each with a line that
says what to do.

The examples run in a directory with a token store `store` and a small run `runs/first`, after
`import lengthen, torch`. This page is made by `scripts/api_page.py` from the docstrings.
"""


def page() -> str:
    """Return the page as it should be."""
    parts = [f"## {title}\n\n{_entries(names)}" for title, names in SECTIONS.items()]
    return "\n".join([HEAD, *parts, f"## Results\n\n{_entries(RESULTS)}"])


def _entries(names: Sequence[str]) -> str:
    return "\n".join(_entry(name) for name in names)


def _entry(name: str) -> str:
    module, _, name = name.rpartition(".")
    value = getattr(import_module(f"lengthen.{module}") if module else lengthen, name)
    text, _, example = (inspect.getdoc(value) or "").partition("\n>>> ")
    # An equation of a docstring is indented.
    text = re.sub(r"\n\n((?: {4}.*\n)+)", r"\n\n```text\n\1```\n", text.strip())
    parts = [f"### `{name}`", f"```python\n{_definition(name, value)}\n```", text]
    if members := "\n".join(_members(value)):
        parts.append(members)
    if example:
        parts.append(f"```python\n>>> {example}\n```")
    return "\n\n".join(parts) + "\n"


def _definition(name: str, value: Any) -> str:
    """Return how a function or a class is called, or the fields of a dataclass."""
    if not inspect.isclass(value):
        return _call(name, value)
    source = textwrap.dedent(inspect.getsource(value))
    body = cast(ast.ClassDef, ast.parse(source).body[0]).body
    if any(isinstance(node, ast.FunctionDef) and node.name == "__init__" for node in body):
        return _call(name, value.__init__)
    lines = source.splitlines()
    fields = [node for node in body if isinstance(node, ast.AnnAssign)]
    shown = [node for node in fields if "ClassVar" not in lines[node.lineno - 1]]
    hints = get_type_hints(value, include_extras=True)
    return "\n".join([f"class {name}:", *(_field(node, lines, hints) for node in shown)])


def _field(node: ast.AnnAssign, lines: Sequence[str], hints: Mapping[str, Any]) -> str:
    """Return a field as it is declared, or where it is a setting with its meaning behind it."""
    hint = hints[ast.unparse(node.target)]
    for doc in getattr(hint, "__metadata__", ()):
        if isinstance(doc, Doc):
            kind = re.sub(r"typing\.|<class '|'>", "", str(hint.__origin__)).replace("'", '"')
            default = f" = {ast.unparse(node.value)}".replace("'", '"') if node.value else ""
            meaning = f"{doc.unit}; {doc.meaning}" if doc.unit else doc.meaning
            return f"    {ast.unparse(node.target)}: {kind}{default}  # {meaning}"
    return lines[node.lineno - 1]


def _call(name: str, function: Any) -> str:
    """Return a function's name, arguments and result, an argument a line where they are many."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    # unparse writes defaults without the spaces that an annotated argument has.
    text = re.sub(r"(: [^,=]*(?:\[[^\]]*\][^,=]*)*)=", r"\1 = ", ast.unparse(node.args))
    arguments = text.removeprefix("self, ").replace("'", '"')
    result = f" -> {ast.unparse(node.returns)}" if name == node.name and node.returns else ""
    line = f"{name}({arguments}){result}"
    if len(line) <= 96:
        return line
    commas = re.compile(r", (?![^\[(]*[\])])")  # but for those in brackets
    return "\n".join(
        [f"{name}(", *(f"    {one}," for one in commas.split(arguments)), f"){result}"]
    )


def _members(value: Any) -> Iterator[str]:
    """Yield the public methods and properties of a class with the first line of each."""
    if not inspect.isclass(value) or value.__module__ == "lengthen.core.pacing":
        return  # all pacings have the same
    for name, member in vars(value).items():
        doc = inspect.getdoc(member)
        # A default has the docstring of its type.
        if doc and not name.startswith("_") and doc != inspect.getdoc(type(member)):
            yield f"- `{name}`: {doc.partition(chr(10) * 2)[0].replace(chr(10), ' ')}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
