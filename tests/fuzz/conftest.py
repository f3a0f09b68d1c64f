"""Fuzzing: memory has a limit meanwhile, and the end says how much was tried."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from lengthen.training.start import train
from tests.conftest import Configure
from tests.fuzz.law import TRIED

MEMORY = 3 * 2**30  # bytes of addresses beside those that the process has when a file's tests begin


@pytest.fixture(scope="module", autouse=True)
def limited_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, configured: Configure) -> Path:
    """A finished run of some steps that nobody spoils, with a line of every kind in its log."""
    out = tmp_path_factory.mktemp("fuzz") / "run"
    pacing = {"kind": "adaptive", "start": 8, "patience": 1, "max_hold": 2, "every": 1}
    train(configured(pacing=pacing, budget={"tokens": 4000}), out, quiet=True)
    return out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many inputs of each format were tried, where this process tried them."""
    if TRIED:
        terminalreporter.section("inputs tried")
        for form, count in sorted(TRIED.items()):
            terminalreporter.write_line(f"{form:24} {count:>9,}")
        terminalreporter.write_line(f"{'all':24} {sum(TRIED.values()):>9,}")
