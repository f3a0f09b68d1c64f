"""Every setting with its type, unit, default and meaning, read from where it is declared."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic_core import PydanticUndefined

from lengthen.config.schema import KINDS, Config
from lengthen.core.settings import Doc
from lengthen.util.errors import SettingError, nearest
from lengthen.util.tables import Table

# What people change most, in the order of a settings file.
COMMON = (
    "model.layers model.width model.length pacing.start pacing.duration batch.rows "
    "optimizer.learning_rate budget.tokens run.seed run.precision"
).split()
WORDS = {int: "count", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Setting:
    """A setting as a reader needs it, in words."""

    name: str
    type: str
    unit: str
    default: str
    meaning: str


def tables() -> dict[str, tuple[str, list[Setting]]]:
    """Return the meaning and the settings of every table; each kind of pacing has its own."""
    declared: dict[str, Any] = {}
    for name, field in Config.model_fields.items():
        kinds = {f'pacing.kind = "{kind}"': value for kind, value in KINDS.items()}
        declared |= kinds if name == "pacing" else {name: field.annotation}
    return {
        name: ((inspect.getdoc(table) or "").partition("\n\n")[0], list(_settings(table)))
        for name, table in declared.items()
    }


def _settings(table: Any) -> Iterator[Setting]:
    hints = get_type_hints(table, include_extras=True)
    declared = getattr(table, "model_fields", None) or {one.name: one for one in fields(table)}
    for name, field in declared.items():
        for doc in getattr(hints[name], "__metadata__", ()):
            if isinstance(doc, Doc):
                required = field.default in (MISSING, PydanticUndefined)
                default = "required" if required else json.dumps(field.default)
                default = doc.default or default.replace("null", "not set")
                yield Setting(name, _type(hints[name]), doc.unit, default, doc.meaning)


def _type(hint: Any) -> str:
    """Return what a setting can be, in the word of its annotation if that has one."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return next((word for word in parts if isinstance(word, str)), "") or _type(parts[0])
    if origin is tuple:
        return f"list of {_type(parts[0])}s"
    words = map(json.dumps, parts) if origin is Literal else map(_type, parts)
    return " or ".join(word for word in words if word) if parts else WORDS.get(hint, "")


def explained(name: str | None) -> list[Table]:
    """Return the settings of the tables called `name`, a row each; of None their names alone.

    Raises SettingError where there is no such table.
    """
    found = tables()
    if name is None:
        rows = ((one, ", ".join(s.name for s in settings)) for one, (_, settings) in found.items())
        note = "`lengthen settings TABLE` gives type, unit, default and meaning of each."
        return [Table("Settings", ("table", "settings"), tuple(rows), note)]
    names = {one: one.partition(".")[0] for one in found}
    if name not in names.values():
        hint = nearest(name, dict.fromkeys(names.values()))
        raise SettingError("TABLE", "no such table of settings", name, hint)
    return [_table(one, *found[one]) for one in found if names[one] == name]


def common() -> Table:
    """Return the settings that people change most, a row each."""
    found: dict[str, Setting] = {}
    for table, (_, settings) in tables().items():
        found |= {f"{table.partition('.')[0]}.{one.name}": one for one in settings}
    rows = ((name, found[name].default, found[name].meaning) for name in COMMON)
    note = "Such as --model.layers 6. A recipe gives what is required; `lengthen settings` has all."
    return Table("The settings changed most", ("setting", "default", "meaning"), tuple(rows), note)


def _table(name: str, meaning: str, settings: list[Setting]) -> Table:
    rows = ((s.name, s.default, s.unit, f"{s.meaning}; {s.type}") for s in settings)
    return Table(f"{name}: {meaning}", ("setting", "default", "unit", "meaning; type"), tuple(rows))
