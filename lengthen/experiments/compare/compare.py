"""`lengthen compare`: carry a comparison out, then say what it has shown."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lengthen.config.load import nested, with_data
from lengthen.data.open_store import open_store, with_store
from lengthen.data.store_manifest import MANIFEST
from lengthen.experiments.command import Command
from lengthen.experiments.compare.declared import amendments, decided_in
from lengthen.experiments.compare.file import Comparison, Planned, comparison_of, read_comparison
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
from lengthen.reporting.losses import final_losses
from lengthen.run.packed import is_packed, opened
from lengthen.util.disk import Disk, as_path
from lengthen.util.errors import DataError, SettingError
from lengthen.util.overwrite import check_file, json_keys
from lengthen.util.tables import Printable, Table, counted


@dataclass(frozen=True, repr=False)
class ComparisonResult(Printable):
    """The result of a comparison; its text is what `lengthen compare` prints."""

    name: str
    verdicts: tuple[str, ...]  # a sentence for each amendment, and each pair that was compared
    notes: tuple[str, ...]  # what a reader must know of the runs
    tables: tuple[Table, ...]  # what matters most first
    unfinished: tuple[str, ...]  # a line for each run that diverged or crashed
    missing: int  # runs that have not come to their end
    page: Path

    @property
    def parts(self) -> list[Table | str]:
        """Tables, runs without an end, verdicts and notes, in the order that they are printed."""
        early = f"{counted(self.missing, 'run')} still to be finished: the verdicts are early ones"
        lines = [*self.unfinished, *self.verdicts, *self.notes, *([early] if self.missing else [])]
        return [*self.tables, *lines, f"report  {self.page}"]


def compare(
    file: str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    amend: bool = False,
    look: bool = False,
    quiet: bool = False,
) -> ComparisonResult:
    """Train variants under equal budgets over several seeds, and say which are distinguishable.

    `file` is a comparison file, or its tables. `data` and `settings` override every variant. `jobs`
    runs train side by side, with `threads` each. A file that was changed after a run was started is
    refused, unless `amend`, which the verdicts show. With `look` nothing is trained: the tables
    show the runs in `out`, which may be a packed study. Writes NAME.html and NAME.json beside the
    runs, or beside the packed study. Raises SettingError, DataError, BusyError, and StoppedError
    after a signal.

    >>> small = {"model": {"layers": 1, "width": 16, "heads": 2}, "budget.tokens": 20_000}
    >>> variants = {"full": {"pacing": {"kind": "constant"}}, "paced": {}}
    >>> question = {"recipe": "laptop-2min", "seeds": [0], "variants": variants}
    >>> result = lengthen.compare(
    ...     question, "runs/compared", data="store", settings=small, quiet=True
    ... )
    >>> result.missing, result.page.name
    (0, 'comparison.html')
    """
    overrides, root = with_data(nested(settings), data), as_path("out", out)
    comparison = asked_for(file, overrides)
    if is_packed(root) and not look:
        rule = "is a packed study, which is read and never trained"
        raise SettingError("--out", rule, str(root), "add --look, or give a directory")
    if look and amend:
        raise SettingError("--amend", "is for what is trained from now on", "--look")
    beside = root.parent if is_packed(root) else root
    page, facts = (beside / f"{comparison.name}.{suffix}" for suffix in ("html", "json"))
    must_be_ours(page)
    check_file(facts, "table of a comparison", _are_our_tables)
    if not look:
        carry_out(comparison, root, jobs=jobs, threads=threads, amend=amend, shown=not quiet)
    with opened(root) as folder:
        comparison = decided_in(comparison, folder, only_declared=True)
        outcomes, missing = read_outcomes(comparison, folder)
        amended = amendments(comparison, folder)
    _must_show_something(root, outcomes)
    members = groups(comparison, outcomes)
    pairs = pair_verdicts(members, comparison)
    lines, remarks = [*amended, *verdict_lines(pairs)], notes(outcomes)
    tables = tables_of(comparison, members, pairs)
    shown = [outcome.shown for outcome in outcomes if outcome.summary]
    families = {o.run.name: group.name for group in members for o in group.outcomes}
    write(
        page,
        shown,
        title=comparison.name,
        verdicts=[*lines, *remarks],
        tables=[final_losses(shown, families), *tables],
        panels=list(sweep_panels(comparison, members)),
        families=families,
    )
    _write_facts(facts, comparison.name, lines, tables)
    ends = tuple(_end(outcome) for outcome in outcomes if outcome.state != "finished")
    said = tuple(lines), tuple(remarks), tuple(tables)
    return ComparisonResult(comparison.name, *said, ends, missing, page)


def asked_for(file: object, overrides: Mapping[str, Any]) -> Comparison:
    """Return the comparison of a file or of tables, its runs on their stores."""
    if isinstance(file, Mapping):
        asked = comparison_of(dict(file), "comparison", dict(overrides))
    else:
        asked = read_comparison(as_path("file", file), dict(overrides))
    return replace(asked, runs=tuple(map(on_its_store, asked.runs)))


def _write_facts(path: Path, name: str, verdicts: list[str], tables: list[Table]) -> None:
    facts = {"name": name, "verdicts": verdicts, "tables": [asdict(table) for table in tables]}
    Disk().replace_file(path, (json.dumps(facts, indent=1) + "\n").encode())


def tables_of(
    comparison: Comparison, members: Sequence[Group], pairs: Sequence[tuple[str, PairVerdict]]
) -> list[Table]:
    """Return every table of a comparison, what matters most first."""
    ends = results(members, comparison.baseline)
    if any(name.endswith(".same_seconds_as") for name in comparison.said):
        ends = replace(ends, title="Results at the end of each variant's budget")
    return [
        ends,
        verdict_table(pairs),
        *sweep_tables(comparison, members),
        instability(members),
        peaks(members),
        correlations(members),
        measuring(members),
    ]


def on_its_store(run: Planned) -> Planned:
    """Return a run with what its store decides, if that is there: what is finished needs none.

    Raises DataError and SettingError where it does not fit.
    """
    if isinstance(run.asked, Command):
        return run
    path = run.config.data.path
    if path is None or not (Path(path) / MANIFEST).is_file():
        return run
    return replace(run, asked=with_store(run.config, open_store(run.config)))


def _are_our_tables(path: Path) -> bool:
    return json_keys(path) == {"name", "verdicts", "tables"}


def _must_show_something(root: Path, outcomes: Sequence[Outcome]) -> None:
    if any(outcome.summary for outcome in outcomes):
        return
    messages = [outcome.attempts.message for outcome in outcomes if outcome.attempts.message]
    if messages:
        raise DataError(f"{root}: every run crashed, the first one with: {messages[0]}")
    raise DataError(f"{root}: no run has come to its end yet")


def _end(outcome: Outcome) -> str:
    diverged = outcome.summary.why_diverged if outcome.summary else ""
    return f"{outcome.run.name} {outcome.state}: {outcome.attempts.message or diverged}"
