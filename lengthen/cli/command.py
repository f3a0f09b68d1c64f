"""What a subcommand is made of, and what several share."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lengthen.config.schema import Tables
from lengthen.util.errors import SettingError, nearest


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        """Raise SettingError."""
        raise SettingError(self.prog.removeprefix("lengthen "), message)

    def refuse(self, word: str) -> NoReturn:
        """Raise SettingError for a word that this command does not know."""
        if not word.startswith("-"):
            raise SettingError(self.prog.removeprefix("lengthen "), "takes no such argument", word)
        raise SettingError(word, "no such option", None, nearest(word, self._option_string_actions))


@dataclass(frozen=True)
class Command:
    """A subcommand: its help, its arguments and what it does."""

    summary: str
    examples: str
    arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace, Tables], int]
    takes_settings: bool = False
    computes: bool = False  # with torch, in this process


def with_data(overrides: Tables, path: str | None) -> Tables:
    """Lay the store that --data names over the other settings."""
    if path is None:
        return overrides
    # The file may name the store of an earlier run: another one is meant, whatever its id.
    store = {"path": str(Path(path).resolve()), "store_id": None}
    return {**overrides, "data": {**overrides.get("data", {}), **store}}


def print_notes(notes: Sequence[str]) -> None:
    """Say on the error stream what was dropped or filled in."""
    from lengthen.util.console import note

    for one in notes:
        note(one)


def print_lines(lines: Sequence[tuple[str, str]]) -> int:
    """Print names and their texts in two columns; return the exit code."""
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print(f"{name:<{width}}  {text}")
    return 0
