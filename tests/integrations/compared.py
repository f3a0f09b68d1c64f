"""One run of a plan in one host's loop: python -m tests.integrations.compared HOST STORE OUT SEED.

A comparison over it has hosts for variants, all of which train the same model in float64.
"""

import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import lengthen
from lengthen.cli.main import main
from lengthen.reporting.gather import gather
from tests import ranks

PLACES = {"plain": "looped", "transformers": "hosted", "accelerate": "accelerated"}


def carry_out(host: str, store: Path, out: Path) -> None:
    if host == "deepspeed":
        work = partial(import_module("tests.hosts.engine").rank, store, out, None)
    elif host == "lightning":
        work = import_module("tests.hosts.lit").Lit(store, out).fit
    else:
        work = partial(
            import_module(f"tests.integrations.{PLACES[host]}").rank, store, out, "whole"
        )
    ranks.finish(ranks.start(lambda: work() or 0))


def check_compared(hosts: list[str], store: Path, folder: Path) -> dict[str, float]:
    """Compare hosts by their logs; return each one's validation loss."""
    words = [sys.executable, "-m", "tests.integrations.compared"]
    tables: dict[str, Any] = {
        "command": [*words, "{host}", str(store), "{out}", "{seed}"],
        "log": {"kind": "RunLog", "file": "run"},
        "seeds": [0],
        "variants": {host: {"host": host} for host in hosts},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
        result = lengthen.compare(tables, folder / "out", jobs=2, quiet=True)
    assert (result.missing, result.unfinished) == (0, ()), result.unfinished
    assert main(["report", str(folder / "out"), "--out", str(folder / "page.html")]) == 0
    runs = gather([folder / "out"])
    assert len({run.metrics.steps[-1].tokens for run in runs}) == 1
    return {run.name.split("/")[0]: run.metrics.evaluations[-1].loss or 0.0 for run in runs}


if __name__ == "__main__":
    carry_out(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
