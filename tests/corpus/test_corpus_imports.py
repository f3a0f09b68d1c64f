"""Inside of the corpus, too, imports go one way, and none of it loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lengthen.corpus

ORDER = """
store byte_level tokenizer_folder tokenizer alike sources unpack splits columns readers losses
encode divide repeats write summary prepare
""".split()
PACKAGE = Path(lengthen.corpus.__file__).parent


def test_every_file_has_its_place_in_the_order() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", *ORDER}


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_what_stands_before_it(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    ours = {name.split(".")[2] for name in names if name.startswith("lengthen.corpus.")}
    assert ours <= set(ORDER[: ORDER.index(name)])


def test_preparing_loads_no_torch() -> None:
    code = "import sys, lengthen.corpus.prepare; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
