"""What a command may write over: nothing, an empty directory, or what it wrote itself earlier."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from lengthen.util.disk import storage_errors
from lengthen.util.errors import SettingError


def check_directory(
    out: Path,
    what: str,
    is_ours: Callable[[set[str]], bool],
    *,
    overwrite: bool,
    hint: str = "",
    setting: str = "--out",
) -> None:
    """Raise SettingError unless `out` is not there, empty, or, with `overwrite`, an earlier `what`.

    `is_ours` decides that by the names in it: somebody may have meant another directory, and what
    no command of ours wrote stays. `hint` says how to go about an earlier one.
    """
    is_there = os.path.lexists(out)
    if (is_there and not out.is_dir()) or any(path.is_file() for path in out.parents):
        raise SettingError(setting, "must be a directory, or not there yet", str(out))
    if not is_there:
        return
    with storage_errors(out):
        names = set(os.listdir(out))
    if not names:
        return
    if not is_ours(names):
        rule = f"must be a new or empty directory; this one holds other things and is no {what}"
        raise SettingError(setting, rule, str(out))
    if not overwrite:
        hint = hint or f"--overwrite replaces the earlier {what}"
        raise SettingError(setting, "must be a new or empty directory", str(out), hint)


def check_file(out: Path, what: str, is_ours: Callable[[Path], bool]) -> None:
    """Raise SettingError where `out` is there already and is no earlier `what`."""
    if not out.exists():
        return
    with storage_errors(out):
        if out.is_file() and is_ours(out):
            return
    raise SettingError("--out", f"is there already and is no {what}, so it stays", str(out))


def json_keys(path: Path) -> set[str]:
    """Return the names in a JSON object, by which our files are known; none for other files."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return set()
    return set(content) if isinstance(content, dict) else set()
