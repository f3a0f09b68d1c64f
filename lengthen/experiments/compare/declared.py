"""What a comparison's file came to before its first run, and every change of it since.

A file may change freely until a run is started, and after that only as an amendment, which tables
and page show. What a run was trained with never changes (status.differing).
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lengthen.config.load import build_recorded
from lengthen.experiments.compare.file import RUNS, Comparison
from lengthen.experiments.status import differing
from lengthen.run.directory import owned
from lengthen.run.metrics import last_record
from lengthen.run.records import Event
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError, one_line, shown
from lengthen.util.tables import counted

DECLARED = ".declared.jsonl"  # behind the comparison's name: a line for each declaration
MOST_PRIMARY = 2  # pairs, without an amendment


def declare(comparison: Comparison, root: Path, *, amend: bool) -> None:
    """Record what the file comes to, before training starts or goes on.

    Raises SettingError for a file that was changed after a run was started, and for more than two
    primary pairs, both unless `amend`; BusyError where another process owns the directory.
    """
    path, begun = root / f"{comparison.name}{DECLARED}", (root / RUNS).is_dir()
    records = _records(path) if begun else []
    changes = list(_changes(comparison, records))
    if changes and not amend:
        raise changes[0]
    if records and not changes:
        return
    ended = (last_record(log) for log in (root / RUNS).rglob("metrics.jsonl"))
    record = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "finished": sum(isinstance(last, Event) and last.name == "finished" for last in ended),
        "changes": [str(change).partition(";")[0] for change in changes],
        "file": _meaning(comparison),
        "settings": {run.group: run.config.tables() for run in comparison.runs},
    }
    with owned(root):
        before = path.read_bytes() if records else b""
        Disk().replace_file(path, before + json.dumps(record).encode() + b"\n")


def amendments(comparison: Comparison, root: Path) -> list[str]:
    """Return a sentence for each change since the first run; raises SettingError as `declare`."""
    records = _records(root / f"{comparison.name}{DECLARED}")
    for change in _changes(comparison, records):
        raise change
    return [
        f"Amended {one['time']}, {counted(one['finished'], 'run')} finished: "
        + ("; ".join(one["changes"]) or "declared only then")
        for one in records
        if one["changes"] or one["finished"]
    ]


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines() if path.is_file() else []
        records: list[dict[str, Any]] = [{**json.loads(line)} for line in lines]
        for one in records:
            built = {group: build_recorded(tables) for group, tables in one["settings"].items()}
            one["settings"], one["file"] = built, {**one["file"]}
        return records
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({one_line(error)})") from None


def _changes(comparison: Comparison, records: list[dict[str, Any]]) -> Iterator[SettingError]:
    """Yield what the file says otherwise than the last record, if there is one."""
    hint = "--amend goes on, and the tables say so"
    if not records and len(comparison.primary) > MOST_PRIMARY:
        rule = f"must be at most {MOST_PRIMARY} pairs"
        yield SettingError("primary", rule, len(comparison.primary), hint)
    for record in records[-1:]:
        found = [
            (name, now, record["file"].get(name)) for name, now in _meaning(comparison).items()
        ]
        for group, config in {run.group: run.config for run in comparison.runs}.items():
            if group in record["settings"]:
                found += differing(config, record["settings"][group])
        for name, now, before in found:
            if now != before and name != "run.seed":
                rule = f"was {shown(before)} when runs were started"
                yield SettingError(name, rule, now, hint)


def _meaning(comparison: Comparison) -> dict[str, Any]:
    """Return what the file says beside settings, as JSON has it."""
    return {
        "baseline": comparison.baseline,
        "seeds": sorted(comparison.seeds),
        "primary": [list(pair) for pair in comparison.primary],
        "margin": comparison.margin,
        "variants": sorted({run.group for run in comparison.runs}),
    }
