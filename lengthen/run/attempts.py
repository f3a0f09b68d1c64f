"""attempts.jsonl: which runs of a comparison or a search were started, and how they ended."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ATTEMPTS = "attempts.jsonl"  # beside the runs


def read_attempts(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each run's lines of attempts.jsonl in order; a line that was cut is left out."""
    path = root / ATTEMPTS
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("run"), str):
            yield record["run"], record


def ran_side_by_side(root: Path) -> bool:
    """Return whether an attempt in the attempts.jsonl of `root` had others beside it."""
    return any(record.get("jobs", 1) != 1 for _, record in read_attempts(root))
