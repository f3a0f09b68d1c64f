"""Which test tries which fault, and whether all of them are survived.

A test that tries faults says so in its name: `test_f01_f13_...`. What they are, and what is
promised, is the table of docs/reliability.md. `python -m tests.fault_matrix` tries every one, with
the long tests, prints a line for each, and exits with 1 unless every one is survived.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reliability.md"
NUMBERS = [f"F{number:02d}" for number in range(1, 57)]
DEFINED = re.compile(r"^(?: {4})?def (test_\w+)", re.MULTILINE)
NAME = re.compile(r"test_((?:f\d\d_)+)")
ROW = re.compile(r"^\| (F\d\d) \| (.+?) \|", re.MULTILINE)
SELECTED = " or ".join(f"test_f{tens}" for tens in range(6))


def numbers_in(name: str) -> list[str]:
    """Return the faults that a test of this name tries."""
    found = NAME.match(name)
    return found[1].upper().strip("_").split("_") if found else []


def faults_with_tests() -> set[str]:
    """Return the faults that some test tries."""
    texts = (path.read_text(encoding="utf-8") for path in HERE.rglob("test_*.py"))
    return {
        number for text in texts for name in DEFINED.findall(text) for number in numbers_in(name)
    }


class Tally:
    """Counts what became of the tests of each fault, for pytest as its plugin."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one part of one test: its call, or whatever went wrong around it."""
        name = report.location[2].partition("[")[0].rpartition(".")[2]
        for number in numbers_in(name):
            if report.failed:
                self.failed[number] += 1
            elif report.skipped:
                self.skipped[number] += 1
            elif report.when == "call":
                self.passed[number] += 1

    def outcome(self, number: str) -> str:
        """Say in a word what became of a fault."""
        if self.failed[number]:
            return "lost"
        if self.skipped[number]:
            return "skipped"
        return "survived" if self.passed[number] else "not tried"

    def lines(self, faults: dict[str, str]) -> Iterator[str]:
        """Yield a line for each fault, and the sum of them."""
        for number in NUMBERS:
            tests = self.passed[number] + self.failed[number] + self.skipped[number]
            outcome, what = self.outcome(number), faults.get(number, "")
            yield f"{number} {outcome:<9} {tests:4d} tests  {what}"
        sums = Counter(self.outcome(number) for number in NUMBERS)
        yield ", ".join([f"{len(NUMBERS)} faults", *(f"{n} {word}" for word, n in sums.items())])


def main() -> int:
    """Run the tests of all faults; return the exit code."""
    tally = Tally()
    options = ["-m", "not gpu", "-k", SELECTED, "--timeout", "3600", "-p", "no:cacheprovider"]
    code = pytest.main([*options, *sys.argv[1:]], plugins=[tally])
    print(*tally.lines(dict(ROW.findall(PAGE.read_text(encoding="utf-8")))), sep="\n")
    return int(code != 0 or any(tally.outcome(number) != "survived" for number in NUMBERS))


if __name__ == "__main__":
    sys.exit(main())
