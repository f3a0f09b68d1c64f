"""Where settings come from: recipe <- TOML file <- settings of a call or command, checked once.

Every source is merged as plain tables and validated together, so that a mistake reads the same
wherever it was made: one line with the setting, the rule, the value and the nearest valid name.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lengthen.config.names import other_name
from lengthen.config.recipes import RECIPES
from lengthen.config.schema import KINDS, Config, Run, Tables
from lengthen.config.values import as_rate
from lengthen.core.custom_pacing import Custom, RecordedFunction, settings_of
from lengthen.core.pacing import Adaptive, Pacing
from lengthen.util.disk import as_path
from lengthen.util.errors import SettingError, closest, nearest, one_line

Source = str | os.PathLike[str] | Config  # a recipe's name, a TOML file, or what they give

FILE_LIMIT = 2**20  # bytes
EXAMPLE = '{"pacing": {"start": 8}} or {"pacing.start": 8}'
# Of two settings that say one thing in two ways, the one set later wins.
EXCLUSIVE = {
    "budget": ("tokens", "epochs", "minutes"),
    "evaluation": ("every_steps", "every_tokens"),
}
AUTO = ("precision", "compile")  # of run: what the device decides when a run first starts

# The settings of each table; of pacing, those of all kinds.
NAMES = {n: set(getattr(f.annotation, "model_fields", ())) for n, f in Config.model_fields.items()}
NAMES["pacing"] = {field.name for kind in KINDS.values() for field in fields(kind)}

SWITCHES = {"true": "on", "false": "off"}
# pydantic's words for a broken rule -> ours, filled from the error's own context.
RULES = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "tuple_type": "must be a list",
    "too_long": "must have {max_length} values",
    "too_short": "must have {min_length} values",
    "model_type": "must be a table",
    "dataclass_exact_type": "must be a table",
    "value_error": "{error}",
}


def load(
    source: Source,
    settings: Mapping[str, Any] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> tuple[Config, list[str]]:
    """Return the checked configuration of a source, and notes on it.

    `settings` lie over the source, as nested tables or under dotted names; `data` is the token
    store. Notes say which settings were dropped, and what is legal and hardly meant. Raises
    SettingError for the first mistake.
    """
    changes = with_data(nested(settings), data)
    if isinstance(source, Config) and not changes:
        return source, []
    tables, notes = merge(_tables_of(source), changes)
    config = build(tables)
    return config, notes + _warnings(config)


def load_run(path: Path) -> Config:
    """Return the configuration in a run's config.toml; raises SettingError as `load` does."""
    return build_recorded(_tables_of(path))


def build_recorded(tables: Tables) -> Config:
    """Check what a run has recorded, to read the run and not to train: a function is a name."""
    pacing = tables.get("pacing")
    if isinstance(pacing, dict) and pacing.get("kind") == Custom.kind:
        named = RecordedFunction(str(pacing.get("function")))
        custom = Custom(named, pacing.get("end", 0), pacing.get("of", "length"))
        tables = {**tables, "pacing": custom}
    return build(tables)


def with_data(changes: Tables, data: str | os.PathLike[str] | None) -> Tables:
    """Return changes of settings with the token store `data` as `data.path`."""
    if data is None:
        return changes
    # The source may name the store of an earlier run: another one is meant, whatever its id.
    store = {"path": str(as_path("data", data).resolve()), "store_id": None}
    return merge(changes, {"data": store})[0]


def nested(settings: Mapping[str, Any] | None) -> Tables:
    """Return settings as nested tables; {"pacing.start": 8} is {"pacing": {"start": 8}}.

    Raises SettingError for what has no names of settings in it.
    """
    tables: Tables = {}
    if not isinstance(settings, Mapping | None):
        raise SettingError("settings", f"must be a dictionary, such as {EXAMPLE}", settings)
    for name, value in (settings or {}).items():
        if not isinstance(name, str):
            raise SettingError("settings", f"must name settings, as {EXAMPLE} does", name)
        table, dot, setting = name.partition(".")
        change = {setting: value} if dot else value
        before = tables.get(table, {})
        if table in tables and not (isinstance(change, Mapping) and isinstance(before, Mapping)):
            raise SettingError(name, "is set twice", value)
        tables[table] = {**before, **change} if isinstance(change, Mapping) else change
    return tables


def _warnings(config: Config) -> list[str]:
    """Return notes on what is legal and hardly meant."""
    pacing, length = config.pacing, config.model.length
    if pacing.of == "length" and pacing.end < length:
        beyond = f"contexts above {pacing.end} are never trained"
        return [f"pacing.end ({pacing.end}) is below model.length ({length}): {beyond}"]
    warmup = config.optimizer.warmup_steps
    if isinstance(pacing, Adaptive) and pacing.latest < warmup:
        soon = f"reaches full length by step {pacing.latest} at the latest"
        late = f"the learning rate warms up until step {warmup}: it can hold nothing back"
        return [f"pacing.max_hold ({pacing.max_hold}) {soon}, and {late}"]
    return []


def build(tables: Tables) -> Config:
    """Check plain tables; raises SettingError for the first mistake."""
    try:
        return Config.model_validate(_with_pacing_defaults(tables)).with_duration()
    except ValidationError as error:
        raise first_mistake(error) from None


def with_overrides(config: Config, overrides: Tables) -> Config:
    """Return `config` with some settings changed, checked again."""
    return build(merge(_tables_of(config), overrides)[0])


def with_auto_as(config: Config, run: Run) -> Config:
    """Return `config` with the precision and compile setting of `run` where its own are "auto"."""
    changes = {name: getattr(run, name) for name in AUTO if getattr(config.run, name) == "auto"}
    return with_overrides(config, {"run": changes}) if changes else config


def merge(base: Tables, changes: Tables) -> tuple[Tables, list[str]]:
    """Lay `changes` over `base`, neither of which is touched; also say what had to go."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    notes: list[str] = []
    for name, change in changes.items():
        table = merged.get(name)
        if isinstance(change, dict) and isinstance(table, dict):
            notes += _make_room(name, table, change)
            notes += _keep_share_of_peak(name, table, change)
            table.update(change)
        else:
            merged[name] = change
    return merged, notes


def _make_room(name: str, table: Tables, change: Tables) -> list[str]:
    exclusive = EXCLUSIVE.get(name, ())
    for setting in exclusive if change.keys() & {*exclusive} else ():
        table.pop(setting, None)
    kind, of = KINDS.get(str(change.get("kind", ""))), table.get("of", "length")
    stale: dict[str, str] = {}
    if change.get("of", of) != of:  # what counts tokens counts no rows
        others = (table.keys() & {"end", "multiple"}) - change.keys()
        stale = dict.fromkeys(others, f"pacing.of was {of!r}, which had its own")
    if name == "pacing" and kind and kind.kind != table.get("kind"):
        others = table.keys() - {field.name for field in fields(kind)}
        stale |= dict.fromkeys(others, f"pacing.kind = {kind.kind!r} has no")
    for setting in stale:
        del table[setting]
    return [f"{stale[setting]} {setting}; dropped" for setting in sorted(stale)]


def _keep_share_of_peak(name: str, table: Tables, change: Tables) -> list[str]:
    """Let the minimum of the rate follow a new peak: 0 and a rate that is constant stay that."""
    if name != "optimizer" or "min_learning_rate" in change:
        return []
    rates = *(one.get("learning_rate") for one in (change, table)), table.get("min_learning_rate")
    peak, before, minimum = map(as_rate, rates)
    if peak in (0, before) or not 0 < minimum <= before:
        return []
    follows = table["min_learning_rate"] = min(peak, float(f"{peak * minimum / before:.6g}"))
    return [f"optimizer.min_learning_rate follows the new peak: {follows:g}"]


def differences(tables: Tables, other: Tables) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ in two tables, by dotted name, with both values.

    A setting that one of them lacks is None there.
    """
    one, two = flat(tables), flat(other)
    return {n: (one.get(n), two.get(n)) for n in [*one, *two] if one.get(n) != two.get(n)}


def as_trained(config: Config) -> Tables:
    """Return the settings that a checkpoint has with it: all, but where the store lies."""
    tables = config.tables()
    tables["data"].pop("path", None)
    return tables


def recorded(state: Mapping[str, Any]) -> Tables:
    """Return the settings in a checkpoint's state; nothing where it has none."""
    tables = state.get("settings")
    return tables if isinstance(tables, dict) else {}


def flat(tables: Mapping[str, Any], prefix: str = "") -> Tables:
    """Return what nested tables hold by dotted name."""
    values: Tables = {}
    for name, value in tables.items():
        value = settings_of(value) if isinstance(value, Pacing | Custom) else value
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


def _tables_of(source: Source) -> Tables:
    if isinstance(source, Config):
        # A table of a function has its name alone.
        own = {"pacing": source.pacing} if isinstance(source.pacing, Custom) else {}
        return source.tables() | own
    if str(source) in RECIPES:
        return RECIPES[str(source)]()
    path = as_path("recipe", source)
    if path.suffix != ".toml" and not os.path.exists(path):
        rule = "no such recipe, and no such file"
        raise SettingError("recipe", rule, str(source), nearest(str(source), RECIPES))
    tables = with_recipe(nested(read_toml(path)))
    if "optimizer" not in tables and path.with_name("metrics.jsonl").is_file():
        rule = "was written by another training loop, which has its model and its checkpoints"
        hint = f"`lengthen report {path.parent}` reads its log"
        raise SettingError("RUN", rule, str(path.parent), hint)
    return tables


def with_recipe(tables: Tables) -> Tables:
    """Lay what a file says over the recipe that it names, if it names one."""
    if "recipe" not in tables:
        return tables
    name = str(tables["recipe"])
    if name not in RECIPES:
        raise SettingError("recipe", "no such recipe", name, nearest(name, RECIPES))
    changes = {table: value for table, value in tables.items() if table != "recipe"}
    return merge(RECIPES[name](), changes)[0]


def read_toml(path: Path) -> Tables:
    """Read a settings file of at most 1 MiB; raises SettingError for one that is none."""
    if path.suffix not in ("", ".toml"):  # a pipe of a shell has none
        raise SettingError(str(path), "must be a TOML file, whose name ends in .toml")
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise SettingError(str(path), f"cannot be read ({error.strerror})") from None
    if len(data) > FILE_LIMIT:
        raise SettingError(str(path), f"must be at most {FILE_LIMIT} bytes")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SettingError(str(path), f"is not TOML in UTF-8 ({error})") from None


def _with_pacing_defaults(tables: Tables) -> Tables:
    """Fill in what a pacing takes from other tables: its end, and a multiple of 1 for rows."""
    pacing, model, batch = (tables.get(name) for name in ("pacing", "model", "batch"))
    if not (isinstance(pacing, dict) and isinstance(model, dict) and isinstance(batch, dict)):
        return tables
    kind = KINDS.get(str(pacing.get("kind")))
    names = {field.name for field in fields(kind)} if kind else set()
    of_rows = pacing.get("of") == "rows"
    defaults = {"end": batch.get("rows") if of_rows else model.get("length")}
    if of_rows:
        defaults["multiple"] = 1
    wanted = {name: value for name, value in defaults.items() if name in names and value}
    given = {name: value for name, value in pacing.items() if value is not None}
    return {**tables, "pacing": {**wanted, **given}}


def no_such_setting(name: str, value: object, names: Iterable[str]) -> SettingError:
    """Return the error for a setting, or a table of settings, of a name that is none of `names`."""
    # Of a table that we lack, the first setting says what was meant.
    full, value = next(iter(flat({name: value}).items()), (name, value))
    hint = right_setting(full) or nearest(name.rpartition(".")[2], names)
    return SettingError(full, "no such setting", value, hint)


def right_setting(name: str) -> str:
    """Return the hint that names the setting which others, or no table, call so; empty for none."""
    mark = "--" if name.startswith("--") else ""
    setting = name.removeprefix("--").rpartition(".")[2].replace("-", "_")
    own = [f"{mark}{table}.{setting}" for table, names in NAMES.items() if setting in names]
    return f"use {' or '.join(own)}" if own else other_name(setting, mark=mark)


def first_mistake(mistakes: ValidationError) -> SettingError:
    """Return the first broken rule in our words, under the setting's dotted name."""
    errors = mistakes.errors(include_url=False)
    # A table that is missing explains whatever else is wrong because of it.
    error = min(errors, key=lambda e: e["type"] != "missing" or len(e["loc"]) > 1)
    cause = error.get("ctx", {}).get("error")
    place = [str(part) for part in error["loc"]]
    if isinstance(cause, SettingError):
        return cause if "." in cause.setting or not place else cause.within(place[0])
    name = ".".join(place[:2])  # what is deeper names a member of a union or of a list
    if error["type"] == "extra_forbidden":
        return no_such_setting(name, error["input"], NAMES[place[0]] if place[1:] else NAMES)
    if error["type"] == "missing" and len(place) > 2:
        return SettingError(name, "has too few values")
    words = [
        RULES[other["type"]].format(**other.get("ctx", {}))
        if other["type"] in RULES
        else one_line(other["msg"])  # which may have braces in it
        for other in errors
        if other["loc"][:2] == error["loc"][:2]  # each member of a union has its own rule
    ]
    rule = ", or ".join(dict.fromkeys(words))
    if error["type"] == "missing":
        hint = "" if place[1:] else 'name a recipe that has it: recipe = "laptop-2min"'
        return SettingError(name, rule, None, hint)
    word = SWITCHES.get(str(error["input"]).lower(), str(error["input"]).lower())
    hint = closest(word, re.findall("'(.+?)'", rule)) if error["type"] == "literal_error" else ""
    return SettingError(name, rule, error["input"], hint)
