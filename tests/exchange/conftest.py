"""What these tests share."""

from pathlib import Path

import pytest

from lengthen.exchange.export import export
from tests.exchange.made import TINY, saved_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of a tiny run."""
    export(saved_run(tmp_path / "run", TINY), tmp_path / "hf")
    return tmp_path / "hf"
