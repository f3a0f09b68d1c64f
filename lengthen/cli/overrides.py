"""Settings on the command line: `--table.setting VALUE`."""

import tomllib
from collections.abc import Sequence
from typing import Any

from lengthen.util.errors import SettingError


def parse_overrides(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Take `--table.setting VALUE` and `--table.setting=VALUE` out of a command line.

    Returns the settings by dotted name, and the other arguments in their order. A value is read as
    a TOML value, else as text. Raises SettingError for a setting without a value.
    """
    settings: dict[str, Any] = {}
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or "." not in name or "/" in name:
            others.append(argument)
            continue
        table, _, setting = name.removeprefix("--").partition(".")
        if not (table and setting):
            raise SettingError(name, "must be --table.setting, such as --pacing.start")
        text = value if equals else next(rest, None)
        if text is None:
            raise SettingError(f"{table}.{setting}", "needs a value after it")
        name, read = f"{table}.{setting.replace('-', '_')}", parse_value(text)
        # A directory may be called by a number or a date.
        settings[name] = text if name == "data.path" and not isinstance(read, str) else read
    return settings, others


def parse_value(text: str) -> Any:
    """Read a TOML value; what is none is text, so that nobody has to quote a word for a shell."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
