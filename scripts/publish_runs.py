"""Copy the finished runs of a comparison as small files, without what belongs to one machine.

    python scripts/publish_runs.py COMPARISON studies/large-batch

Kept are settings, environment and measurements; left out are checkpoints, the tokenizer, the path
of the token store (its id stays) and the command line.
"""

import json
import sys
from pathlib import Path

from lengthen.compare.standing import ATTEMPTS, RUNS
from lengthen.runlog import RunPaths, last_record


def publish(comparison: Path, out: Path) -> int:
    """Copy every finished run that is not there yet; return how many those were."""
    copied = 0
    for metrics in sorted((comparison / RUNS).rglob("metrics.jsonl")):
        here, there = (
            RunPaths(metrics.parent),
            RunPaths(out / metrics.parent.relative_to(comparison)),
        )
        last = last_record(metrics) or {}
        if last.get("event") not in ("finished", "skipped") or there.metrics.exists():
            continue
        there.root.mkdir(parents=True, exist_ok=True)
        lines = here.config.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith("path = ")]
        there.config.write_text("".join(kept), encoding="utf-8")
        environment = json.loads(here.environment.read_text(encoding="utf-8"))
        del environment["command"]
        there.environment.write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
        there.metrics.write_bytes(metrics.read_bytes())
        copied += 1
    if (comparison / ATTEMPTS).is_file():
        (out / ATTEMPTS).write_bytes((comparison / ATTEMPTS).read_bytes())
    return copied


if __name__ == "__main__":
    print(publish(Path(sys.argv[1]), Path(sys.argv[2])), "runs published")
