"""A table as plain text cells, made once and shown by the terminal and by the report alike.

On a terminal no cell is cut or broken inside a word: columns that do not fit go below the others,
or each cell becomes a line, whichever is shorter. In a pipe or a file a row is one line of any
length with two spaces or more between cells: `grep` finds whole rows, and programs split them.
"""

import html
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console

GAP = "  "  # between columns
PROSE = 100  # characters in a line of a title or a note at most
FEWEST = 24  # characters in a line of a text in the last column at least

Column = tuple[str, ...]  # its name, then its cells
wrapped = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; the first column is words."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # what a reader must know before believing it

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)


def facts(lines: Iterable[tuple[str, str]]) -> Table:
    """Return names and their texts, a row each."""
    return Table("", ("", ""), tuple(lines))


def laid_out(table: Table, width: int | None = None) -> list[str]:
    """Return the lines of a table on a screen of `width` columns, or in a pipe (None).

    A line is longer than the screen is wide only where one word is.
    """
    rows = ([" ".join(cell.split()) for cell in row] for row in (table.columns, *table.rows))
    columns = list(zip(*rows, strict=True))
    forms = [_blocks(columns, width), [] if width is None else _stacked(columns, width)]
    prose = min(width or PROSE, PROSE)
    body = min(filter(None, forms), key=len, default=[])
    note = ["", *wrapped(table.note, prose)] if table.note else []
    return [*wrapped(table.title, prose), *body, *note]


def _blocks(columns: list[Column], width: int | None) -> list[str]:
    """Return blocks of columns below each other, all with those that tell the rows apart."""
    rows = list(zip(*columns, strict=True))
    keys = (n for n in range(1, len(columns)) if len({row[:n] for row in rows}) == len(rows))
    key = columns[: next(keys, len(columns))]
    blocks = [key]
    for column in columns[len(key) :]:
        if blocks[-1] != key and not _sizes([*blocks[-1], column], width):
            blocks.append(key)
        blocks[-1] = [*blocks[-1], column]
    grids = [list(_grid(block, width)) for block in blocks]
    return [line for grid in grids for line in ("", *grid)][1:] if all(grids) else []


def _sizes(columns: Sequence[Column], width: int | None) -> list[int]:
    """Return how wide each column is; nothing where they do not fit side by side."""
    if width is None:
        return [max(map(cell_len, column)) for column in columns]
    # A name may be continued on another line, and so may a cell of the last column.
    sizes = [max(map(cell_len, [*name.split(), *cells, ""])) for name, *cells in columns]
    over = sum(sizes) + len(GAP) * (len(sizes) - 1) - width
    least = max(FEWEST, *map(cell_len, " ".join(columns[-1]).split()), 0)
    sizes[-1] = min(sizes[-1], max(sizes[-1] - over, least))
    return sizes if sum(sizes) + len(GAP) * (len(sizes) - 1) <= width else []


def _grid(columns: Sequence[Column], width: int | None) -> Iterator[str]:
    """Yield the lines of columns side by side; none where they do not fit."""
    names, *rows = zip(*columns, strict=True)
    sizes = _sizes(columns, width)
    rows = [names, tuple("-" * size for size in sizes), *rows] if any(names) else rows
    # A column of figures stands at the end of its place.
    figures = [bool(name) and is_numeric(cells) for name, *cells in columns]
    for row in rows if sizes else []:
        cells = [wrapped(cell, max(1, size)) for cell, size in zip(row, sizes, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            line = []
            for part, size, at_end in zip(parts, sizes, figures, strict=True):
                space = " " * (size - cell_len(part))
                line.append(space + part if at_end else part + space)
            yield GAP.join(line).rstrip()


def is_numeric(cells: Sequence[str]) -> bool:
    """Return whether cells are figures, and signs for what is missing."""
    return not any(cell[:1].isalpha() for cell in cells)


def _stacked(columns: Sequence[Column], width: int) -> list[str]:
    """Return a line for each cell, those of a row below its first one."""
    names, *rows = zip(*columns, strict=True)
    lines = []
    for row in rows:
        for number, (name, cell) in enumerate(zip(names, row, strict=True)):
            text = GAP * (number > 0) + (f"{name}: {cell}" if name else cell)
            lines += wrapped(text, width, subsequent_indent=2 * GAP)
    return lines


def text_lines(parts: Iterable[Table | str], width: int | None = None) -> Iterator[str]:
    """Yield the lines of tables and sentences, with nothing of them cut or broken in a word."""
    last = None
    for part in parts:
        # A table with a title stands apart.
        if last and any(isinstance(one, Table) and one.title for one in (last, part)):
            yield ""
        last = part
        if isinstance(part, Table):
            yield from laid_out(part, width)
        elif width is None or ("lengthen " in part and "`" not in part):
            yield part  # a command is copied as one line
        else:
            held = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\0"), part)
            lines = wrapped(held, width, subsequent_indent=GAP)
            yield from (line.replace("\0", " ") for line in lines)


def as_text(parts: Iterable[Table | str]) -> str:
    """Return tables and lines as a pipe gets them."""
    return "\n".join(text_lines(parts))


def show(parts: Iterable[Table | str]) -> None:
    """Print tables and lines, as wide as the terminal is."""
    out = Console()
    for line in text_lines(parts, out.width if out.is_terminal else None):
        print(line)


class Printable:
    """A result of tables and lines: its text is shown by `print`, prompts and notebooks alike."""

    @property
    def parts(self) -> Sequence[Table | str]:
        """What is printed, in order."""
        raise NotImplementedError

    def print(self) -> None:
        """Print it, as wide as the terminal is."""
        show(self.parts)

    def __repr__(self) -> str:
        return as_text(self.parts)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def counted(count: float, what: str) -> str:
    """Return a number of things in words, such as "1 step" and "2 steps"."""
    return f"{count:,.0f} {what}{'s' * (round(count) != 1)}"


def between(low: float | None, high: float | None, least: float = -math.inf) -> str:
    """Return an interval; "-" where there is none, or it says nothing: it begins below `least`."""
    return "-" if low is None or high is None or low < least else f"{low:z.3f} to {high:z.3f}"


def number(value: float | None, digits: int = 3, missing: str = "-") -> str:
    """Return a figure with `digits` after the point, never -0, or `missing` for None."""
    return missing if value is None else f"{value:z,.{digits}f}"
