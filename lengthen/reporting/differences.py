"""What runs share and where they differ: settings, with seeds folded, and environments."""

import shlex
from collections.abc import Mapping, Sequence

from lengthen.config.load import flat
from lengthen.reporting.gather import NamedRun
from lengthen.util.tables import Table

SEED = "run.seed"
LENGTH = "model.length"
MISSING = "-"
Cells = dict[str, str]  # dotted name -> value as text


def settings_table(runs: Sequence[NamedRun]) -> Table | None:
    """Return the settings in which runs differ; None where none does, or none is known.

    Runs that differ in their seed alone are one column.
    """
    groups: dict[tuple[tuple[str, str], ...], list[NamedRun]] = {}
    for run in runs:
        without_seed = cells(run.config) | {SEED: ""}
        groups.setdefault(tuple(sorted(without_seed.items())), []).append(run)
    members = list(groups.values())
    settings = [cells(group[0].config) | {SEED: _seeds(group)} for group in members]
    differing = _differing(settings)
    if not differing:
        return None
    names = _unique([_label(group) for group in members])
    return _sheet("Settings that differ", "setting", names, settings, differing)


def full_lengths(runs: Sequence[NamedRun]) -> list[str]:
    """Return a note where runs have different full lengths: their losses are of other tasks."""
    known = {run.name: cells(run.config).get(LENGTH, MISSING) for run in runs}
    lengths = {length: name for name, length in known.items() if length != MISSING}
    if len(lengths) < 2:
        return []
    (length, name), (other, second) = list(lengths.items())[:2]
    return [
        f"{name} has a full length of {length} tokens and {second} of {other}: with more text "
        "before it a token is easier, so their validation losses are not of the same task"
    ]


def environment_tables(runs: Sequence[NamedRun]) -> list[Table]:
    """Return what the environments have in common, and what is one run's own."""
    known = [run for run in runs if run.environment]
    facts = [cells(run.environment) for run in known]
    if not facts:
        return []
    differing = _differing(facts)
    common = [(name, value) for name, value in facts[0].items() if name not in differing]
    tables = []
    if common:
        whose = "Environment" if len(known) == 1 else "Environment of all runs"
        tables.append(Table(whose, ("", "value"), tuple(common)))
    if differing:
        names = [run.name for run in known]
        tables.append(_sheet("Environments that differ", "", names, facts, differing))
    return tables


def cells(tables: Mapping[str, object]) -> Cells:
    """Return nested tables as dotted names with their values as text."""
    return {name: _text(name, value) for name, value in flat(tables).items()}


def _text(name: str, value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        words = [_text(name, item) for item in value]
        return shlex.join(words) if name == "command" else ", ".join(words)
    return str(value)


def _differing(columns: Sequence[Cells]) -> list[str]:
    names = dict.fromkeys(name for cells in columns for name in cells)
    return [name for name in names if len({cells.get(name, MISSING) for cells in columns}) > 1]


def _seeds(group: Sequence[NamedRun]) -> str:
    seeds = dict.fromkeys(cells(run.config).get(SEED, MISSING) for run in group)
    return ", ".join(seeds)


def _label(group: Sequence[NamedRun]) -> str:
    """Return one name for runs that differ in their seed alone: what their names begin with."""
    if len(group) == 1:
        return group[0].name
    parts = [run.name.split("/") for run in group]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    name = "/".join(shared) or group[0].name
    seeds = {cells(run.config).get(SEED, MISSING) for run in group}
    return f"{name} ({len(group)} {'seeds' if len(seeds) == len(group) else 'runs'})"


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names, the later ones of equal ones numbered."""
    return [
        f"{name} ({names[:at].count(name) + 1})" if name in names[:at] else name
        for at, name in enumerate(names)
    ]


def _sheet(
    title: str, corner: str, names: Sequence[str], columns: Sequence[Cells], shown: Sequence[str]
) -> Table:
    """Lay out a row for each setting or for each run, whichever takes less width."""
    values = [[cells.get(name, MISSING) for cells in columns] for name in shown]
    upright = [(corner, *names), *((name, *row) for name, row in zip(shown, values, strict=True))]
    turned = [("run", *shown), *list(zip(*upright, strict=True))[1:]]
    head, *rows = min(upright, turned, key=_width)
    return Table(title, head, tuple(rows))


def _width(rows: Sequence[Sequence[str]]) -> int:
    return sum(max(len(cell) for cell in column) for column in zip(*rows, strict=True))
