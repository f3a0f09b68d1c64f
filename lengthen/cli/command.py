"""What a subcommand is made of, and what several share."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lengthen.util.errors import SettingError, nearest

Settings = dict[str, Any]  # as nested tables, before they are checked


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
    run: Callable[[argparse.Namespace, Settings], int]
    takes_settings: bool = False


def with_data(overrides: Settings, path: str | None) -> Settings:
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


def print_summary(run: Path, summary: dict[str, object]) -> int:
    """Print what a run came to, on rank 0; return the exit code."""
    from lengthen.run.directory import RunPaths, read_metrics

    if os.environ.get("RANK", "0") != "0":
        return 0
    evaluations = read_metrics(RunPaths(run).metrics).of("eval")
    lines = [(name.replace("_", " "), _figure(value)) for name, value in summary.items()]
    if evaluations:
        loss = evaluations[-1]["loss"]
        lines.append(("validation loss", "not finite" if loss is None else f"{loss:.4f}"))
    return print_lines(lines)


def _figure(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def start_computing(options: argparse.Namespace) -> None:
    """Import torch, whose numbers may get a mode of ours where this process does nothing else.

    A command calls it once its settings are checked: a mistake in them waits for no torch.
    """
    from lengthen.distributed.subnormals import flush_subnormals

    if options.alone:
        flush_subnormals()
