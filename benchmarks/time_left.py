"""The time left that `lengthen train` says during a warmup, against the time that it then takes.

    python -m benchmarks.time_left                 about four minutes on two cores, alone
    python -m benchmarks.time_left --tokens 1M     a quick look

A real process trains laptop-10min with a warmup over 60 % of its tokens; every line of its progress
(one in ten seconds) is held against its end. The figure is the furthest said / real of all lines
after a tenth of the run.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import furthest, report
from benchmarks.step import real_store

LEFT = re.compile(r"(\d+):(\d\d):(\d\d) left")


def lines_of(words: list[str]) -> tuple[list[tuple[float, float]], float]:
    """Run a command; return when each time left was said and what it was, and when all ended."""
    began, said = time.monotonic(), []
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(f"  {line.rstrip()}")
            if match := LEFT.search(line):
                hours, minutes, seconds = map(int, match.groups())
                said.append((time.monotonic() - began, 3600.0 * hours + 60 * minutes + seconds))
    assert process.returncode == 0
    return said, time.monotonic() - began


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Time left against the time that was left.")
    parser.add_argument("--tokens", default="5M", help="of the training, for a quick look")
    tokens = parser.parse_args().tokens
    with real_store() as folder, tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "lengthen", "train", "laptop-10min"]
        where = ["--data", str(folder / "store"), "--out", str(Path(runs) / "run")]
        changes = ["--pacing.duration", "60%", "--budget.tokens", tokens]
        said, end = lines_of([*command, *where, *changes])
    late = [left / (end - when) for when, left in said if 0.1 * end < when and end - when > 5]
    print("  said / real:", ", ".join(f"{ratio:.2f}" for ratio in late))
    report("TIME_LEFT", furthest(late))


if __name__ == "__main__":
    main()
