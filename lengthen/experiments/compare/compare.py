"""`lengthen compare`: carry a comparison out, then say what it has shown."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lengthen.config.schema import Tables
from lengthen.experiments.compare.causes import correlations, peaks
from lengthen.experiments.compare.file import Comparison, read_comparison
from lengthen.experiments.compare.notes import notes
from lengthen.experiments.compare.outcomes import Group, Outcome, groups, read_outcomes
from lengthen.experiments.compare.run import carry_out
from lengthen.experiments.compare.sweep import sweep_panels, sweep_tables
from lengthen.experiments.compare.tables import (
    instability,
    judged,
    measuring,
    results,
    verdict_lines,
    verdict_table,
)
from lengthen.experiments.compare.verdicts import Verdict
from lengthen.experiments.status import on_stores
from lengthen.reporting.html import must_be_ours, write
from lengthen.run.packed import is_packed, opened
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError
from lengthen.util.overwrite import check_file
from lengthen.util.tables import Table, console, printed


def compare(
    file: Path,
    root: Path,
    *,
    overrides: Tables | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    look: bool = False,
    shown: bool = True,
) -> None:
    """Bring every run that `file` asks for to its end below `root`, then print and write tables.

    With `look` nothing is trained: the tables are of what is there, and `root` may be a packed
    study. Writes NAME.html and NAME.json beside the runs, or beside the packed study. Raises
    SettingError, DataError, BusyError, and StoppedError after a signal.
    """
    comparison = on_stores(read_comparison(file, overrides))
    if is_packed(root) and not look:
        rule = "is a packed study, which is read and never trained"
        raise SettingError("--out", rule, str(root), "add --look, or give a directory")
    beside = root.parent if is_packed(root) else root
    page, data = (beside / f"{comparison.name}.{suffix}" for suffix in ("html", "json"))
    must_be_ours(page)
    check_file(data, "table of a comparison", _are_our_tables)
    if not look:
        carry_out(comparison, root, jobs=jobs, threads=threads, shown=shown)
    with opened(root) as folder:
        outcomes, missing = read_outcomes(comparison, folder)
    if not any(outcome.summary for outcome in outcomes):
        raise DataError(_nothing(root, outcomes))
    members = groups(comparison, outcomes)
    judgements = judged(members, comparison.variants)
    lines, apart = verdict_lines(judgements), notes(outcomes)
    tables = tables_of(comparison, members, judgements)
    # Files first: whoever reads our output may close it at any line.
    write(
        page,
        [outcome.shown for outcome in outcomes if outcome.summary],
        title=comparison.name,
        verdicts=[*lines, *apart],
        tables=tables,
        panels=list(sweep_panels(comparison, members)),
        families={o.run.name: group.name for group in members for o in group.outcomes},
    )
    facts = {"name": comparison.name, "verdicts": lines, "tables": [asdict(t) for t in tables]}
    Disk().replace_file(data, (json.dumps(facts, indent=1) + "\n").encode())
    _print([*lines, *apart], tables, outcomes, missing)
    print(f"report  {page}")


def tables_of(
    comparison: Comparison, members: Sequence[Group], judgements: Sequence[tuple[str, Verdict]]
) -> list[Table]:
    """Return every table of a comparison, what matters most first."""
    return [
        results(members, comparison.baseline),
        verdict_table(judgements),
        *sweep_tables(comparison, members),
        instability(members),
        peaks(members),
        correlations(members),
        measuring(members),
    ]


def _are_our_tables(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() == {"name", "verdicts", "tables"}


def _nothing(root: Path, outcomes: Sequence[Outcome]) -> str:
    said = [outcome.attempts.message for outcome in outcomes if outcome.attempts.message]
    if said:
        return f"{root}: every run crashed, the first one with: {said[0]}"
    return f"{root}: no run has come to its end yet"


def _print(
    lines: Sequence[str], tables: Sequence[Table], outcomes: Sequence[Outcome], missing: int
) -> None:
    out = console()
    for table in tables:
        out.print(printed(table))
    for outcome in outcomes:
        if outcome.fate != "finished":
            reason = outcome.attempts.message or _why(outcome)
            print(f"{outcome.run.name} {outcome.fate}: {reason}")
    for line in lines:
        print(line)
    if missing:
        print(f"{missing} runs have not come to their end: the verdicts are early ones")


def _why(outcome: Outcome) -> str:
    return "" if outcome.summary is None else outcome.summary.why_diverged
