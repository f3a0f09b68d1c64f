"""A table as plain text cells, made once and shown by the terminal and by the report alike."""

import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table as Printed
from rich.text import Text

PIPE_WIDTH = 200  # columns where no terminal says how many there are


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; the first column is words, the others are figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # what a reader must know before believing it

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)


def printed(table: Table) -> Printed:
    """Return the table for the terminal; cells are text, never markup."""
    shown = Printed(
        title=Text(table.title), caption=Text(table.note), box=box.SIMPLE, caption_justify="left"
    )
    for number, column in enumerate(table.columns):
        shown.add_column(
            Text(column), justify="right" if number else "left", overflow="fold", min_width=4
        )
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def console() -> Console:
    """Return the standard output; a file or a pipe gets room for whole tables."""
    out = Console()
    return out if out.is_terminal else Console(width=PIPE_WIDTH)


def as_text(parts: Iterable[Table | str], width: int = PIPE_WIDTH) -> str:
    """Return tables and lines as they are printed, in plain text."""
    text = io.StringIO()
    print_to(Console(file=text, width=width, color_system=None), parts)
    return text.getvalue().rstrip("\n")


def print_to(out: Console, parts: Iterable[Table | str]) -> None:
    """Print tables as wide as `out` is, and lines as they are."""
    for part in parts:
        if isinstance(part, Table):
            out.print(printed(part))
        else:
            print(part, file=out.file)


class Printable:
    """A result of tables and lines: `str` gives them as text, a notebook shows that."""

    @property
    def parts(self) -> Sequence[Table | str]:
        """What is printed, in order."""
        raise NotImplementedError

    def print(self) -> None:
        """Print it, as wide as the terminal is."""
        print_to(console(), self.parts)

    def __str__(self) -> str:
        return as_text(self.parts)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def two_columns(lines: Iterable[tuple[str, str]]) -> str:
    """Return names and their texts, a line each."""
    lines = list(lines)
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def number(value: float | None, digits: int = 3, missing: str = "-") -> str:
    """Return a figure with `digits` after the point, or `missing` for None."""
    return missing if value is None else f"{value:,.{digits}f}"
