"""The folder listing is the architecture: imports go one way, down this list."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lengthen

ORDER = """
errors faults disk progress packed tables evidence pacing order ledger clock config recipes settings
corpus bind loader model cost scale shards optim
subnormals hardware devices runlog monitor foreign spikes analysis
checkpoint commit exchange evaluate plan state weights trainer saves calibrate loop runs adopt
verify sample legend picture report forecast processes compare tune watch plug demo commands cli
__main__
""".split()
PACKAGE = Path(lengthen.__file__).parent


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "lengthen":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lengthen."):
            rooms.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            rooms |= {parts[1] for parts in names if parts[0] == "lengthen" and len(parts) > 1}
    return rooms


FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_stands_above_it(path: Path) -> None:
    here = ORDER.index(room(path))
    later = {name for name in imported_rooms(path) if ORDER.index(name) > here}
    assert not later


@pytest.mark.parametrize("name", ["pacing", "order", "ledger"])
def test_the_core_needs_numpy_alone(name: str) -> None:
    assert imported_rooms(PACKAGE / f"{name}.py") <= {"errors", "pacing", "order", "ledger"}
    heavy = "[m for m in ('torch', 'pydantic') if m in sys.modules]"
    code = f"import sys, lengthen.{name}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_quick_because_it_loads_no_torch() -> None:
    code = "import sys, lengthen.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
