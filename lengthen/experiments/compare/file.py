"""A comparison file -> the runs that it asks for.

    recipe = "laptop-2min"            # and any settings, as in every settings file: the base
    baseline = "baseline"             # the variant that speed-ups are counted against
    seeds = [0, 1, 2, 3, 4]           # every variant of a cell gets the same ones

    [variants.baseline]
    pacing.kind = "constant"
    [variants.slw]
    pacing = { kind = "linear", start = 8, duration = 100 }
    [variants.rows]
    same_tokens_as = "slw"            # rows warmup with that variant's tokens at every step
    [variants.less]
    same_seconds_as = "slw"           # the steps that take that variant's seconds, by `seconds`

    [[grid]]                          # optional: each is one axis, whose settings move together
    optimizer.learning_rate = [3e-3, 1e-2]
    optimizer.min_learning_rate = [3e-4, 1e-3]

With a `command` in place of a recipe and its settings every run is that command.

A cell is one point of the grid. The budget is equal within a cell: in tokens by the base's
`budget`, or in arithmetic with `flops`, which becomes tokens for each variant.
"""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lengthen.config.load import (
    Source,
    build,
    flat,
    merge,
    nested,
    no_such_setting,
    read_toml,
    with_overrides,
    with_recipe,
)
from lengthen.config.recipes import rows_with_the_same_tokens
from lengthen.config.schema import Config, Tables
from lengthen.config.values import MOST
from lengthen.core.custom_pacing import Custom
from lengthen.core.pacing import Doubling, Linear
from lengthen.experiments import command as commands
from lengthen.experiments.command import Command, commands_of
from lengthen.experiments.compare.fairness import (
    must_be_fair,
    must_have_the_same_tokens,
    with_flops,
    with_seconds,
)
from lengthen.experiments.compare.grid import PLACEHOLDERS, Axis, axes_of, cells_of, in_file
from lengthen.experiments.compare.seconds import read_seconds
from lengthen.util.errors import SettingError, nearest

EVERY = ("baseline", "seeds", "variants", "grid", "primary", "margin")  # of a command's, too
OWN = (*EVERY, "flops", "seconds", *commands.OWN)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,39}")  # it becomes a directory
MOST_RUNS = 10_000
RUNS = "runs"  # in a comparison's directory
LINEAR = "must name a variant whose length is paced linearly or by doubling"
PAIRS = 'must be pairs of two variants, each pair once, such as [["slw", "baseline"]]'
TIMED = "must name a variant without same_seconds_as"


@dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    variant: str
    cell: str  # what its axes are set to, "" without a grid
    seed: int
    asked: Config | Command

    @property
    def config(self) -> Config:
        """What is trained; only of a run that is ours."""
        assert isinstance(self.asked, Config)
        return self.asked

    @property
    def name(self) -> str:
        """Where it lies below the comparison's runs."""
        parts = (self.variant.replace(" ", "-"), self.cell, f"seed-{self.seed}")
        return "/".join(part for part in parts if part)

    @property
    def group(self) -> str:
        """What all seeds of its variant in its cell are called in a table."""
        return f"{self.variant}, {self.cell}" if self.cell else self.variant

    def directory(self, root: Path) -> Path:
        """Return where it lies in the comparison's directory `root`."""
        return root / RUNS / self.name


@dataclass(frozen=True)
class Comparison:
    """What one file asks for."""

    name: str  # the file's, without its suffix
    baseline: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    axes: tuple[str, ...]  # the first setting of each axis
    cells: Mapping[str, tuple[Any, ...]]  # label -> the value on each axis
    runs: tuple[Planned, ...]  # seed by seed, so that an early look finds whole pairs
    primary: tuple[tuple[str, str], ...]  # pairs that alone are judged; none: all are
    margin: float | None  # nats by which the first of a primary pair may be worse
    said: Tables  # all that the file and what lies over it say, by dotted name
    became: Mapping[str, str] = field(default_factory=dict)  # what every "auto" of the runs is
    reasons: tuple[str, ...] = ()  # for that, a line each


def read_comparison(path: Path, overrides: Tables | None = None) -> Comparison:
    """Read a comparison file; raises SettingError for the first mistake in it.

    `overrides` lie over the base and over every variant.
    """
    tables = read_toml(path)
    if "seconds" in tables:
        tables["seconds"] = str(path.parent / str(tables["seconds"]))
    return comparison_of(tables, path.stem, overrides or {})


def variants_in(source: Source, overrides: Tables) -> dict[str, Config]:
    """Return a configuration of each variant in each cell; none where it is no comparison file."""
    path = Path(source) if isinstance(source, str | os.PathLike) else Path()
    tables = read_toml(path) if path.suffix == ".toml" and path.is_file() else {}
    if "variants" not in tables:
        return {}
    if "command" in tables:
        raise SettingError(str(path), "compares a command, whose cost nobody knows beforehand")
    return {run.group: run.config for run in read_comparison(path, overrides).runs}


def comparison_of(tables: Tables, name: str, overrides: Tables) -> Comparison:
    """Return what the tables of a comparison file ask for (read_comparison)."""
    tables = nested(tables)
    table = read_seconds(tables["seconds"]) if "seconds" in tables else None
    said = flat(tables | {"seconds": table.model_dump() if table else {}}) | flat(overrides)
    _must_be_known(tables, overrides)
    own = {key: tables.pop(key) for key in OWN if key in tables}
    base = merge(with_recipe(tables), overrides)[0]
    if "flops" in own:  # which become the tokens of each variant
        base.setdefault("budget", {"tokens": MOST})
    variants = _variants(own.get("variants"))
    baseline = own.get("baseline", next(iter(variants)))
    _known("baseline", baseline, variants)
    primary = _primary(own["primary"], variants) if "primary" in own else ()
    margin = _margin(own["margin"], primary) if "margin" in own else None
    timed = {one: of["same_seconds_as"] for one, of in variants.items() if "same_seconds_as" in of}
    seeds = _seeds(own.get("seeds", [0, 1, 2, 3, 4]))
    axes = axes_of(own.get("grid", []), within=PLACEHOLDERS if "command" in own else "")
    _must_not_hide(overrides, variants, axes)
    if "flops" in own:
        _must_set_no_budget(overrides, variants, axes)
    cells = cells_of(axes)
    if len(cells) * len(variants) * len(seeds) > MOST_RUNS:
        raise SettingError("grid", f"asks for more than {MOST_RUNS} runs", len(cells))
    configs: dict[str, Mapping[str, Config | Command]] = {}
    for label, (_, point) in cells.items():
        if "command" in own:
            configs[label] = commands_of(own, variants, point.get(PLACEHOLDERS, {}))
            continue
        cell = merge(base, point)[0]
        of_cell = {
            one: _config(one, variants, cell, overrides, own.get("flops")) for one in variants
        }
        for one, other in timed.items():
            of_cell[one] = with_seconds(of_cell, one, other, table)
        must_be_fair(of_cell, baseline, variants if "flops" in own else timed)
        must_have_the_same_tokens(of_cell, variants)
        configs[label] = of_cell
    runs = [
        Planned(variant, label, seed, _with_seed(asked, seed))
        for seed, label in itertools.product(seeds, cells)
        for variant, asked in configs[label].items()
    ]
    values = {label: cell[0] for label, cell in cells.items()}
    names = tuple(in_file(next(iter(axis))) for axis in axes)
    said |= {"variants": list(variants), "grid": axes}  # a variant may have no setting
    asked = tuple(variants), seeds, names, values, tuple(runs), primary, margin, said
    return Comparison(name, baseline, *asked)


def _with_seed(asked: Config | Command, seed: int) -> Config | Command:
    if isinstance(asked, Command):
        return asked.with_seed(seed)
    return with_overrides(asked, {"run": {"seed": seed}})


def _variants(given: object) -> dict[str, Tables]:
    if not isinstance(given, dict) or not given:
        raise SettingError("variants", "is missing; a comparison needs [variants.NAME] tables")
    for name, changes in given.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            rule = "a variant's name has letters, digits, spaces and _ . + - only, at most 40"
            raise SettingError("variants", rule, name)
        if not isinstance(changes, dict):
            raise SettingError(f"variants.{name}", "must be a table", changes)
    if len({name.replace(" ", "-") for name in given}) < len(given):
        raise SettingError("variants", "two names differ only in a space and a -", list(given))
    variants = {name: nested(changes) for name, changes in given.items()}
    for name, changes in variants.items():
        if "recipe" in changes:
            raise SettingError(f"variants.{name}.recipe", "belongs to the base, above the variants")
        if "seed" in _tables_in(changes).get("run", {}):
            raise SettingError(f"variants.{name}.run.seed", "is what `seeds` sets")
        for key, rule in (("same_tokens_as", LINEAR), ("same_seconds_as", TIMED)):
            other = changes.get(key)
            if other is not None:
                _known(f"variants.{name}.{key}", other, variants)
            if other is not None and key in variants[other]:
                raise SettingError(f"variants.{name}.{key}", rule, other)
        if {"same_seconds_as", "budget"} <= changes.keys():
            raise SettingError(f"variants.{name}.budget", "is what same_seconds_as sets")
    return variants


def _known(setting: str, name: object, variants: Mapping[str, Tables]) -> None:
    if not isinstance(name, str) or name not in variants:
        raise SettingError(setting, "no such variant", name, nearest(str(name), variants))


def _primary(given: object, variants: Mapping[str, Tables]) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for pair in given if isinstance(given, list) and given else [given]:
        names = pair if isinstance(pair, list) else []
        for name in names:
            _known("primary", name, variants)
        if len(names) != 2 or names[0] == names[1] or {*names} in map(set, pairs):
            raise SettingError("primary", PAIRS, pair)
        pairs.append((names[0], names[1]))
    return tuple(pairs)


def _margin(given: object, primary: Sequence[object]) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= MOST:
        raise SettingError("margin", "must be a number of nats above 0", given)
    if not primary:
        raise SettingError("margin", "needs primary, the pairs that it is for", given)
    return float(given)


def _tables_in(changes: Tables) -> Tables:
    return {name: value for name, value in changes.items() if isinstance(value, dict)}


def _must_be_known(tables: Tables, overrides: Tables) -> None:
    if "command" in tables:
        for name, value in {**tables, **overrides}.items():
            if name not in (*EVERY, *commands.OWN):
                rule = "a comparison over a command has no such key"
                raise SettingError(name, rule, value, nearest(name, (*EVERY, *commands.OWN)))
        return
    known = [*EVERY, "flops", "seconds", "command", "recipe", *Config.model_fields]
    for name in tables:
        if name not in known:
            raise no_such_setting(name, tables[name], known)
    if "seed" in _tables_in(tables).get("run", {}):
        raise SettingError("run.seed", "is what `seeds` sets")


def _must_not_hide(overrides: Tables, variants: Mapping[str, Tables], axes: Sequence[Axis]) -> None:
    """Refuse an override of what the file varies, which would make all of it equal.

    And a variant's own value of what an axis varies: its cells would have the names of others.
    """
    varied = [(name, f"grid.{in_file(name)}") for axis in axes for name in axis]
    on_axes = {in_file(name): place for name, place in varied}
    for variant, changes in variants.items():
        for name, value in flat(changes).items():
            if name in on_axes:
                rule = f"is what the file varies in {on_axes[name]}"
                raise SettingError(f"variants.{variant}.{name}", rule, value)
        own = [
            name.split(".")[0] if name.startswith("pacing.") else name
            for name in flat(_tables_in(changes))
        ]
        varied += [(name, f"variants.{variant}.{name}") for name in dict.fromkeys(own)]
        if "same_tokens_as" in changes:
            varied.append(("pacing", f"variants.{variant}.same_tokens_as"))
    for name, value in flat(overrides).items():
        if name == "run.seed":
            raise SettingError(name, "is what `seeds` in the file sets", value)
        if places := [place for one, place in varied if one in (name, name.split(".")[0])]:
            rule = f"is what the file varies in {' and '.join(places)}"
            raise SettingError(name, rule, value, "change it there")


def _must_set_no_budget(
    overrides: Tables, variants: Mapping[str, Tables], axes: Sequence[Axis]
) -> None:
    """Refuse a budget beside one in flops, which would take its place without a word."""
    if "budget" in overrides:
        raise SettingError("budget", "stands in the file as flops; change it there")
    places = [f"variants.{one}.budget" for one, changes in variants.items() if "budget" in changes]
    places += [f"grid.{name}" for axis in axes for name in axis if name.startswith("budget.")]
    for place in places:
        raise SettingError(place, "is what flops sets")


def _seeds(given: object) -> tuple[int, ...]:
    if not isinstance(given, list) or not given:
        raise SettingError("seeds", "must be a list of whole numbers, such as [0, 1, 2]", given)
    for seed in given:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise SettingError("seeds", "must be whole numbers of at least 0", seed)
        if given.count(seed) > 1:
            raise SettingError("seeds", "has a seed twice", seed)
    return tuple(given)


def _config(
    name: str, variants: Mapping[str, Tables], cell: Tables, overrides: Tables, flops: object
) -> Config:
    changes = dict(variants[name])
    other, timed = (changes.pop(key, None) for key in ("same_tokens_as", "same_seconds_as"))
    if other is not None:
        target = _config(other, variants, cell, overrides, None)
        if not isinstance(target.pacing, Linear | Doubling) or target.pacing.of != "length":
            raise SettingError(f"variants.{name}.same_tokens_as", LINEAR, other)
    try:
        if other is not None:
            cell = rows_with_the_same_tokens(target.tables())
        tables = merge(merge(cell, changes)[0], overrides)[0]
        if (timed or flops is not None) and "%" in str(flat(tables).get("pacing.duration")):
            rule = "is a share of budget.tokens, which flops or seconds replace; give steps"
            raise SettingError("pacing.duration", rule, flat(tables)["pacing.duration"])
        if isinstance(pacing := tables.get("pacing"), Custom):
            rule = "cannot be a function, as each run is a process that reads a settings file"
            raise SettingError("pacing", rule, pacing.name)
        return build(tables) if flops is None or timed else with_flops(build(tables), flops)
    except SettingError as error:
        # A mistake of the base is not this variant's.
        own = {*flat(_tables_in(changes)), *changes, *(["pacing"] if other else [])}
        if own.isdisjoint({error.setting, error.setting.split(".")[0]}):
            raise
        raise error.within(f"variants.{name}") from None
