"""What a comparison's file said before its first run, and every change of it since.

A file may change freely until a run is started, and after that only as an amendment, which tables
and page show. What a run was trained with never changes (status.run_status).
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lengthen.config.load import AUTO, with_auto_as
from lengthen.config.schema import Config, Run
from lengthen.data.open_store import open_store
from lengthen.data.tokenizer_files import first_problem
from lengthen.distributed.auto import decided_alike
from lengthen.experiments.compare.file import RUNS, Comparison
from lengthen.experiments.status import NO_RESULT
from lengthen.run.directory import owned
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError, shown

DECLARED = ".declared.jsonl"  # behind the comparison's name: a line for each declaration
MOST_PRIMARY = 2  # pairs, without an amendment


class _Declaration(BaseModel):
    time: str
    changes: list[str]  # since the one before it
    file: dict[str, Any]
    # What "auto" is for every run; before it was written down, it was this on every device.
    became: dict[str, str] = {"precision": "fp32", "compile": "off"}


def declare(comparison: Comparison, root: Path, *, amend: bool) -> None:
    """Record what the file says, before training starts or goes on.

    Raises SettingError for a file that was changed after a run was started, and for more than two
    primary pairs, both unless `amend`; BusyError where another process owns the directory.
    """
    path, begun = root / f"{comparison.name}{DECLARED}", (root / RUNS).is_dir()
    before = _declarations(path) if begun else []
    changes = list(_changes(comparison, before))
    if changes and not amend:
        raise changes[0]
    if changes or not before:
        now = _Declaration(
            time=time.strftime("%Y-%m-%d %H:%M:%S"),
            changes=[str(change).partition(";")[0] for change in changes],
            file=_said(comparison),
            became={**(before[-1].became if before else {}), **comparison.became},
        )
        lines = "".join(f"{one.model_dump_json()}\n" for one in [*before, now])
        with owned(root):
            Disk().replace_file(path, lines.encode())


def decided_in(comparison: Comparison, root: Path, *, only_declared: bool = False) -> Comparison:
    """Return a comparison with one decision for every "auto" of its runs, and why.

    It is the one that was declared in `root`, if one was; `only_declared` leaves runs that somebody
    trained by hand. A run whose store is not there is finished or will be refused: it has no say.
    """
    before = _declarations(root / f"{comparison.name}{DECLARED}") if (root / RUNS).is_dir() else []
    if only_declared and not before:
        return comparison
    then = Run.model_validate(before[-1].became if before else {})
    ours = [run for run in comparison.runs if isinstance(run.asked, Config)]
    known = {run.name: with_auto_as(run.config, then) for run in ours}
    stores = {run.name: open_store(run.config) for run in ours if run.config.data.store_id}
    configs, reasons = decided_alike([(known[name], store) for name, store in stores.items()])
    known |= dict(zip(stores, configs, strict=True))
    became = {
        name: getattr(known[run.name].run, name)
        for run in ours
        for name in AUTO
        if getattr(run.config.run, name) == "auto"
    }
    runs = tuple(replace(run, asked=known.get(run.name, run.asked)) for run in comparison.runs)
    return replace(comparison, runs=runs, became=became, reasons=tuple(reasons))


def amendments(comparison: Comparison, root: Path) -> list[str]:
    """Return a sentence for each change since the first run; raises SettingError as `declare`."""
    before = _declarations(root / f"{comparison.name}{DECLARED}")
    for change in _changes(comparison, before):
        raise change
    return [f"Amended {one.time}: {'; '.join(one.changes)}" for one in before if one.changes]


def _declarations(path: Path) -> list[_Declaration]:
    lines = path.read_bytes().splitlines() if path.is_file() else []
    try:
        return [_Declaration.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise DataError(f"file {path}: is damaged ({first_problem(error)})") from None


def _changes(comparison: Comparison, before: list[_Declaration]) -> Iterator[SettingError]:
    """Yield what the file says otherwise than the last declaration, if there is one."""
    hint = "--amend goes on, and the verdicts say so"
    if not before and len(comparison.primary) > MOST_PRIMARY:
        rule = f"must be at most {MOST_PRIMARY} pairs"
        yield SettingError("primary", rule, len(comparison.primary), hint)
    now, then = _said(comparison), before[-1].file if before else _said(comparison)
    # The list of the variants says which came and went, their settings need not.
    came_or_went = set(now.get("variants", ())) ^ set(then.get("variants", ()))
    whole = tuple(f"variants.{name}." for name in came_or_went)
    for name in {**now, **then}:
        if now.get(name) != then.get(name) and not name.startswith(whole):
            was = shown(then[name]) if name in then else "not set"
            yield SettingError(name, f"was {was} when runs were started", now.get(name), hint)


def _said(comparison: Comparison) -> dict[str, Any]:
    """Return what the file says of results, by dotted name, as JSON has it."""
    places = (*NO_RESULT, "run.device")
    said = {name: one for name, one in comparison.said.items() if not name.endswith(places)}
    as_read: dict[str, Any] = json.loads(json.dumps(said, default=str))
    return as_read
