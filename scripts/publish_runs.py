"""Copy the finished runs of a comparison as small files, without what belongs to one machine.

    python scripts/publish_runs.py COMPARISON studies/large-batch

Kept are settings, environment and measurements; left out are checkpoints, the tokenizer, the path
of the token store (its id stays) and the command line.
"""

import json
import sys
from pathlib import Path

from lengthen.compare.standing import RUNS
from lengthen.processes import ATTEMPTS
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
        if last.get("event") != "finished" or there.metrics.exists():
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
    _publish_attempts(comparison / ATTEMPTS, out / ATTEMPTS)
    return copied


def _publish_attempts(here: Path, there: Path) -> None:
    """Add how runs were started, and nothing that they said; what is there already stays."""
    known = there.read_text(encoding="utf-8").splitlines() if there.is_file() else []
    runs = {json.loads(line)["run"] for line in known}
    for line in here.read_text(encoding="utf-8").splitlines() if here.is_file() else ():
        record = json.loads(line)
        if record["event"] == "started" and record["run"] not in runs:
            known.append(json.dumps(record))
    there.write_text("".join(f"{line}\n" for line in known), encoding="utf-8")


if __name__ == "__main__":
    print(publish(Path(sys.argv[1]), Path(sys.argv[2])), "runs published")
