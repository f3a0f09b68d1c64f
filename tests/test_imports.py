"""The folder listing is the architecture: imports go one way, down this list."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lengthen
from tests.conftest import Configure

# From the bottom up: a folder imports from itself and from those above it in this list.
ORDER = """
util core run analysis config model data distributed checkpoint exchange evaluation reporting
integrations training planning experiments cli
""".split()
PACKAGE = Path(lengthen.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, as dotted names below it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lengthen"):
            base = (node.module or "").removeprefix("lengthen").removeprefix(".")
            below = {f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
            modules |= {base} & MODULES.keys() or below & MODULES.keys()
    return modules


def test_every_folder_has_its_place_in_the_order() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_a_file_imports_only_what_stands_above_it(name: str) -> None:
    here = ORDER.index(name.split(".")[0])
    later = {other for other in imported(MODULES[name]) if ORDER.index(other.split(".")[0]) > here}
    assert not later


def test_no_files_import_each_other_in_a_circle() -> None:
    TopologicalSorter({name: imported(path) for name, path in MODULES.items()}).prepare()


def test_the_root_of_the_package_holds_folders_alone() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("name", ["pacing", "shuffle", "ledger", "schedule", "loss_ratio"])
def test_the_core_needs_numpy_alone(name: str) -> None:
    assert {other.split(".")[0] for other in imported(MODULES[f"core.{name}"])} <= {"core", "util"}
    heavy = "[m for m in ('torch', 'pydantic') if m in sys.modules]"
    code = f"import sys, lengthen.core.{name}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name",
    ["cli.main", "checkpoint.remote", "data.prepare", "planning.plan", "experiments.compare.run"],
)
def test_what_computes_nothing_loads_no_torch(name: str) -> None:
    code = f"import sys, lengthen.{name}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_process_that_trains_loads_nothing_that_only_reports_need(
    configured: Configure, tmp_path: Path
) -> None:
    file = tmp_path / "one.toml"
    file.write_text(configured(budget={"tokens": 600}).to_toml(), encoding="utf-8")
    words = ["train", str(file), "--out", str(tmp_path / "run"), "--quiet"]
    program = f"""
import sys
from lengthen.cli.main import main
assert main({words}) == 0
found = sys.modules.keys() & {{*sys.argv[1:]}}
assert not found, found
"""
    reports = ["plotly", "matplotlib", "pandas", "scipy", "sympy", "torch._dynamo"]
    subprocess.run([sys.executable, "-c", program, *reports], check=True)
