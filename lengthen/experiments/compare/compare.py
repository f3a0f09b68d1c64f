"""`lengthen compare`: carry a comparison out, then say what it has shown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from lengthen.config.schema import Tables
from lengthen.data.open_store import open_store, with_store
from lengthen.data.store import MANIFEST
from lengthen.experiments.compare.file import Comparison, read_comparison
from lengthen.experiments.compare.outcomes import Group, Outcome, groups, notes, read_outcomes
from lengthen.experiments.compare.run import carry_out
from lengthen.experiments.compare.sweep import sweep_panels, sweep_tables
from lengthen.experiments.compare.tables import (
    correlations,
    instability,
    measuring,
    pair_verdicts,
    peaks,
    results,
    verdict_lines,
    verdict_table,
)
from lengthen.experiments.compare.verdicts import PairVerdict
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
    comparison = _on_stores(read_comparison(file, overrides))
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
        crashed = (o for o in outcomes if o.attempts.message)
        crash = next((f"; {o.run.name}: {o.attempts.message}" for o in crashed), "")
        raise DataError(f"{root}: no run has come to its end yet{crash}")
    members = groups(comparison, outcomes)
    pairs = pair_verdicts(members, comparison.variants)
    lines, remarks = verdict_lines(pairs), notes(outcomes)
    tables = tables_of(comparison, members, pairs)
    # Files first: whoever reads our output may close it at any line.
    write(
        page,
        [outcome.shown for outcome in outcomes if outcome.summary],
        title=comparison.name,
        verdicts=[*lines, *remarks],
        tables=tables,
        panels=list(sweep_panels(comparison, members)),
        families={o.run.name: group.name for group in members for o in group.outcomes},
    )
    facts = {"name": comparison.name, "verdicts": lines, "tables": [asdict(t) for t in tables]}
    Disk().replace_file(data, (json.dumps(facts, indent=1) + "\n").encode())
    _print([*lines, *remarks], tables, outcomes, missing)
    print(f"report  {page}")


def tables_of(
    comparison: Comparison, members: Sequence[Group], pairs: Sequence[tuple[str, PairVerdict]]
) -> list[Table]:
    """Return every table of a comparison, what matters most first."""
    return [
        results(members, comparison.baseline),
        verdict_table(pairs),
        *sweep_tables(comparison, members),
        instability(members),
        peaks(members),
        correlations(members),
        measuring(members),
    ]


def _on_stores(comparison: Comparison) -> Comparison:
    """Return the comparison with what its stores decide, as far as these are there.

    What is finished needs no store. Raises DataError and SettingError where one does not fit.
    """
    configs = {run.config.data.path: run.config for run in comparison.runs}
    stores = {
        path: open_store(config)
        for path, config in configs.items()
        if path is not None and (Path(path) / MANIFEST).is_file()
    }
    runs = [
        replace(run, config=with_store(run.config, stores[run.config.data.path]))
        if run.config.data.path in stores
        else run
        for run in comparison.runs
    ]
    return replace(comparison, runs=tuple(runs))


def _are_our_tables(path: Path) -> bool:
    try:
        facts = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and facts.keys() == {"name", "verdicts", "tables"}


def _print(
    lines: Sequence[str], tables: Sequence[Table], outcomes: Sequence[Outcome], missing: int
) -> None:
    out = console()
    for table in tables:
        out.print(printed(table))
    for outcome in outcomes:
        if outcome.state != "finished":
            diverged = outcome.summary.why_diverged if outcome.summary else ""
            print(f"{outcome.run.name} {outcome.state}: {outcome.attempts.message or diverged}")
    for line in lines:
        print(line)
    if missing:
        print(f"{missing} runs have not come to their end: the verdicts are early ones")
