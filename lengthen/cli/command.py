"""What a subcommand is made of, and what several share."""

import argparse
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, NoReturn

from lengthen.util.errors import SettingError, nearest

if TYPE_CHECKING:
    from lengthen.util.tables import Printable

Settings = dict[str, Any]  # by dotted name, before they are checked
OURS = ("command", "alone")  # among the options of every command


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        """Raise SettingError."""
        raise SettingError(self.prog.removeprefix("lengthen "), message)

    takes_settings = False
    has_common_settings = False

    def format_help(self) -> str:
        """Return the help, and the settings that people change most where that is wanted."""
        text = super().format_help()
        if not self.has_common_settings:
            return text
        from lengthen.config.reference import common
        from lengthen.util.tables import laid_out

        return "\n".join([text, *laid_out(common(), get_terminal_size().columns), ""])

    def check_options(self, words: Iterable[str]) -> None:
        """Raise SettingError for an option that this command lacks, before one that is missing."""
        for word in takewhile(lambda word: word != "--", words):
            if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions:
                self.refuse(word.partition("=")[0])

    def refuse(self, word: str) -> NoReturn:
        """Raise SettingError for a word that this command does not know."""
        if not word.startswith("-"):
            raise SettingError(self.prog.removeprefix("lengthen "), "takes no such argument", word)
        from lengthen.config.load import right_setting
        from lengthen.config.names import OPTIONS, other_name

        options, command = self._option_string_actions, self.prog.removeprefix("lengthen ")
        asks_setting = self.takes_settings and f"{word}s" not in options
        theirs = other_name(word, OPTIONS.get(command, {}))
        ours = right_setting(word) if asks_setting else theirs
        hint = ours or nearest(word, options, cutoff=0.7)
        raise SettingError(word, "no such option", None, hint)


@dataclass(frozen=True)
class Command:
    """A subcommand: its help, its arguments and what it does."""

    summary: str
    examples: str
    arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace, Settings], int]
    takes_settings: bool = False


def named(options: argparse.Namespace) -> dict[str, Any]:
    """Return a command's own options, by the names of the parameters that they are for."""
    return {name: value for name, value in vars(options).items() if name not in OURS}


def print_on_rank_zero(summary: "Printable") -> int:
    """Print what a run came to, once for all ranks; return the exit code."""
    if os.environ.get("RANK", "0") == "0":
        summary.print()
    return 0


def start_computing(options: argparse.Namespace) -> None:
    """Import torch, whose numbers may get a mode of ours where this process does nothing else.

    A command calls it once its settings are checked: a mistake in them waits for no torch.
    """
    from lengthen.distributed.subnormals import flush_subnormals

    if options.alone:
        flush_subnormals()
