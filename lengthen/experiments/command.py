"""Somebody else's training as the runs of a comparison: a command, what fills it, its log."""

import re
from collections.abc import Mapping
from pathlib import Path

import tomli_w
from pydantic import BaseModel, ValidationError

from lengthen.config.load import read_toml
from lengthen.config.schema import Tables
from lengthen.util.errors import SettingError, nearest

OWN = ("command", "resumes", "log")  # keys of a comparison's file
PLACEHOLDER = re.compile(r"\{(\w+)\}")
GIVEN = ("seed", "out")  # placeholders that no variant fills
WORDS = 'must be a list of words, such as ["python", "train.py", "{seed}", "{out}"]'
# What [log] needs by its kind, and may have besides; a table is CSV or JSON lines.
NEEDED = {
    "table": ("file", "step", "tokens", "validation_loss"),
    "TensorBoard": ("tokens", "validation_loss"),
    "RunLog": (),
}
OPTIONAL = ("kind", "file", "loss", "seconds")


class Command(BaseModel, frozen=True):
    """A run's command, what its placeholders are set to, and where its log lies."""

    command: list[str]
    placeholders: dict[str, str | int | float]
    run: dict[str, int]  # the seed
    log: dict[str, str]  # its kind, its file below {out}, and its columns
    resumes: bool = False  # a command that was cut short goes on from what is in {out}

    def with_seed(self, seed: int) -> "Command":
        """Return the command with another seed."""
        return self.model_copy(update={"run": {"seed": seed}})

    def words(self, out: Path) -> list[str]:
        """Return the words, every placeholder filled; `out` is the command's own folder."""
        filled = {**self.placeholders, **self.run, "out": out}
        return [PLACEHOLDER.sub(lambda name: str(filled[name[1]]), word) for word in self.command]

    @property
    def columns(self) -> dict[str, str]:
        """Our names (external_logs.NAMES) -> the log's columns, or TensorBoard's tags."""
        ours = {"validation_loss": "eval_loss"}
        named = {"step": "step", **self.log}
        return {ours.get(n, n): named[n] for n in named if n not in ("kind", "file")}

    def tables(self) -> Tables:
        """Return what config.toml has of it."""
        return self.model_dump()

    def to_toml(self) -> str:
        """Return config.toml."""
        return tomli_w.dumps(self.tables())


def read_command(path: Path) -> Command:
    """Read a config.toml; raises SettingError where it is none of a command."""
    try:
        return Command.model_validate(read_toml(path))
    except ValidationError:
        raise SettingError(str(path), "holds no run of a command") from None


def commands_of(own: Tables, variants: Mapping[str, Tables], cell: Tables) -> dict[str, Command]:
    """Return each variant's command in a cell of the grid; raises SettingError."""
    words = own["command"]
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise SettingError("command", WORDS, words)
    there = dict.fromkeys(name for word in words for name in PLACEHOLDER.findall(word))
    for name in GIVEN:
        if name not in there:
            raise SettingError("command", f"must have the placeholder {{{name}}}", words)
    if not isinstance(resumes := own.get("resumes", False), bool):
        raise SettingError("resumes", "must be true or false", resumes)
    names, log = [name for name in there if name not in GIVEN], _log(own.get("log"))
    filled = {one: _filled(names, one, cell, of) for one, of in variants.items()}
    shared: Tables = {"command": words, "run": {}, "log": log, "resumes": resumes}
    return {one: Command(placeholders=values, **shared) for one, values in filled.items()}


def _filled(names: list[str], variant: str, cell: Tables, own: Tables) -> Tables:
    values = {**cell, **own}
    for name, value in values.items():
        place = f"variants.{variant}.{name}" if name in own else f"grid.{name}"
        if name not in names:
            rule = "the command has no such placeholder"
            raise SettingError(place, rule, value, nearest(name, names))
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise SettingError(place, "must be text or a number", value)
    for name in names:
        if name not in values:
            rule = f"is missing; the command has the placeholder {{{name}}}"
            raise SettingError(f"variants.{variant}.{name}", rule)
    return values


def _log(given: object) -> dict[str, str]:
    if not isinstance(given, dict):
        raise SettingError("log", "must be a table that says where the command's log lies", given)
    log = {"kind": "table", **given}
    if str(log["kind"]) not in NEEDED:
        raise SettingError("log.kind", "no such kind", log["kind"], f"one of {', '.join(NEEDED)}")
    known = *NEEDED[log["kind"]], *(OPTIONAL if log["kind"] != "RunLog" else OPTIONAL[:2])
    for name, value in log.items():
        if name not in known:
            rule = f"a log of kind {log['kind']!r} has no such key"
            raise SettingError(f"log.{name}", rule, value, nearest(name, known))
        if not isinstance(value, str) or not value:
            raise SettingError(f"log.{name}", "must be a text", value)
    for name in NEEDED[log["kind"]]:
        if name not in log:
            raise SettingError(f"log.{name}", f"is missing; a log of kind {log['kind']!r} needs it")
    if Path(file := log.setdefault("file", ".")).is_absolute() or ".." in Path(file).parts:
        raise SettingError("log.file", "must lie below {out}, the folder of each run", file)
    return log
