"""One self-contained page about runs: verdicts, tables, linked figures, settings, environment.

It opens from disk, asks no network for anything, and needs a script for the figures alone.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from lengthen.reporting import apart, decisions
from lengthen.reporting.differences import environment_tables, full_lengths, settings_table
from lengthen.reporting.figures import Panel, families, stroke
from lengthen.reporting.gather import NamedRun
from lengthen.reporting.panels import panels_of
from lengthen.reporting.plotly_json import DIGITS, extents, figure, thinned
from lengthen.reporting.thin import points_per_curve
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError
from lengthen.util.tables import Table

OPENING = "<!DOCTYPE html>\n<!-- a report of lengthen -->\n"
PLOTLY = Path("package_data/plotly.min.js")  # in the installed package
# How a cell begins that is a figure; a version or a hash is none.
FIGURE = re.compile(r"[-+<>~]?\s*\d[\d,]*(\.\d+)?(e[-+]?\d+)?%?x?(?!\S)")


def write(
    out: Path,
    runs: Sequence[NamedRun],
    *,
    title: str,
    verdicts: Sequence[str] = (),
    tables: Sequence[Table] = (),
    panels: Sequence[Panel] = (),
    families: Mapping[str, str] | None = None,
) -> None:
    """Write the page about `runs` to the file `out`, whole or not at all; an old one is replaced.

    Verdicts, plain sentences, come first, then `tables`, then `panels` and the standard panels of
    the runs, then where settings and environments differ; without a run, what is given alone.
    `families` maps a run's name to its family (picture.Curve). Equal input gives equal bytes, about
    5 MB of them the plotting script.
    Raises SettingError where `out` cannot be a file, StorageError where the disk refuses it.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise SettingError("--out", "must be a file in a directory that exists", str(out))
    must_be_ours(out)
    most = points_per_curve(len(runs))
    given = [replace(panel, curves=thinned(panel, most)) for panel in panels]
    of_runs = panels_of(runs, families) if runs else []
    standard = [replace(panel, curves=thinned(panel, most)) for panel in of_runs]
    content = _Content(title, runs, verdicts, tables, [*given, *standard], most)
    # Text from a file can hold half of a pair of surrogates, which no encoding has.
    Disk().replace_file(out, "".join(_page(content)).encode("utf-8", "replace"))


def must_be_ours(out: Path) -> None:
    """Raise SettingError where `out` is there already and is no page of ours."""
    if not out.exists():
        return
    if not out.is_file() or _opening_of(out) != OPENING.encode():
        raise SettingError("--out", "is there already and is no report, so it stays", str(out))


def _opening_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(OPENING))


@dataclass(frozen=True)
class _Content:
    """All that a page says."""

    title: str
    runs: Sequence[NamedRun]
    verdicts: Sequence[str]
    tables: Sequence[Table]
    panels: Sequence[Panel]
    most: int  # points of a curve

    @property
    def shown(self) -> list[Panel]:
        """The panels that have a point."""
        return [panel for panel in self.panels if panel.curves]

    @property
    def empty(self) -> list[str]:
        """Titles of those that have none."""
        return [panel.title for panel in self.panels if not panel.curves]


def _page(content: _Content) -> Iterator[str]:
    scripts = [_plotly(), _file("page.js")]
    differing = settings_table(content.runs)
    settings = [] if differing is None else [differing]
    environment = environment_tables(content.runs)
    yield _head(content.title, scripts)
    yield _opening(content)
    yield _verdicts(content.verdicts)
    yield _contents([*content.tables], content.shown, [*settings, *environment])
    yield from (_table(table, f"table-{number}") for number, table in enumerate(content.tables))
    yield from _figures(content)
    first = len(content.tables)
    if not settings and any(run.config for run in content.runs) and len(content.runs) > 1:
        yield "<p>All runs have the same settings.</p>\n"
    for number, table in enumerate([*settings, *environment], start=first):
        yield _table(table, f"table-{number}")
    yield _notes(content)
    yield f'<script type="application/json" id="page-data">{_data(content)}</script>\n'
    yield from (f"<script>{script}</script>\n" for script in scripts)
    yield "</body>\n</html>\n"


def _head(title: str, scripts: Sequence[str]) -> str:
    # The page may load nothing and run these scripts alone, whatever else got into it.
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    )
    return (
        f'{OPENING}<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>\n"
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _plotly() -> str:
    """Return the plotting script, read from the package without importing it, which is slow."""
    spec = find_spec("plotly")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / PLOTLY
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise DataError("the page needs the package plotly; install it with `pip install plotly`")


def _file(name: str) -> str:
    return files("lengthen.reporting").joinpath(name).read_text(encoding="utf-8")


def _opening(content: _Content) -> str:
    steps = sum(len(run.metrics.steps) for run in content.runs)
    size = f"{_count(len(content.runs), 'run')}, {_count(steps, 'step')} in all"
    size = size if content.runs else "worked out, before any run"
    return (
        f"<header><div><h1>{escape(content.title)}</h1>\n<p>{size}</p></div>\n"
        '<button type="button" id="theme" class="script" aria-pressed="false">Dark</button>'
        "</header>\n<main>\n"
    )


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _verdicts(verdicts: Sequence[str]) -> str:
    if not verdicts:
        return ""
    items = "".join(f"<li>{escape(verdict)}</li>\n" for verdict in verdicts)
    many = " many" if len(verdicts) > 6 else ""
    return f'<ul class="verdicts{many}" aria-label="Verdict">\n{items}</ul>\n'


def _contents(tables: Sequence[Table], panels: Sequence[Panel], rest: Sequence[Table]) -> str:
    """Return links to all that follows, in its order."""
    links = [(f"table-{at}", table.title) for at, table in enumerate(tables)]
    links += [(f"figure-{at}", panel.title) for at, panel in enumerate(panels)]
    links += [(f"table-{at}", table.title) for at, table in enumerate(rest, start=len(tables))]
    items = "".join(f'<li><a href="#{place}">{escape(title)}</a></li>\n' for place, title in links)
    return f"<details><summary>Contents</summary><nav><ul>\n{items}</ul></nav></details>\n"


def _table(table: Table, place: str) -> str:
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    kinds = [""] + [' class="figure"' if _is_figures(column) else "" for column in columns[1:]]
    head = "".join(
        f'<th scope="col"{kind}>{_breakable(name)}</th>'
        for name, kind in zip(table.columns, kinds, strict=True)
    )
    rows = "".join(f"<tr>{_row(row, kinds)}</tr>\n" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>\n' if table.note else ""
    title = escape(table.title)
    return (
        f'<section id="{place}"><h2>{title}</h2>\n'
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n{note}</section>\n"
    )


def _row(row: Sequence[str], kinds: Sequence[str]) -> str:
    cells = "".join(
        f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True)
    )
    return f'<th scope="row">{_breakable(row[0])}</th>{cells}'


def _breakable(name: str) -> str:
    """Return a dotted name or a path, escaped, that may be broken behind its parts."""
    return re.sub(r"(?<=[./_=])(?=[^./_=])", "<wbr>", escape(name))


def _is_figures(cells: Sequence[str]) -> bool:
    """Tell whether a column is to be lined up at its right: most of its cells are figures."""
    return 2 * sum(FIGURE.match(cell) is not None for cell in cells) >= len(cells)


def _figures(content: _Content) -> Iterator[str]:
    yield '<section id="figures"><h2>Figures</h2>\n'
    if content.empty:
        yield f'<p class="note">Nothing was recorded for: {escape("; ".join(content.empty))}.</p>\n'
    yield '<noscript><p class="note">Figures need JavaScript; the rest does not.</p></noscript>\n'
    if content.shown:
        yield _keys(families(content.shown))
    for number, panel in enumerate(content.shown):
        yield _figure(panel, f"figure-{number}")
    yield "</section>\n"


def _keys(names: Sequence[str]) -> str:
    """Return the key to all figures: a button for each family, which hides and shows it."""
    buttons = "".join(
        f'<button type="button" class="key" aria-pressed="true" data-family="{escape(name)}">'
        f"{_swatch(number)}{escape(name)}</button>\n"
        for number, name in enumerate(names)
    )
    return (
        '<div class="keys script" role="toolbar" aria-label="Curves">\n'
        f'<button type="button" id="reset">Reset zoom</button>\n{buttons}</div>\n'
    )


def _swatch(number: int) -> str:
    colour, dashes = stroke(number)
    return (
        '<svg width="26" height="8" aria-hidden="true"><path d="M0 4h26" stroke-width="3" '
        f'stroke="{colour}" stroke-dasharray="{dashes}"/></svg>'
    )


def _figure(panel: Panel, place: str) -> str:
    title = escape(panel.title)
    buttons = "".join(
        f'<button type="button" data-do="{what}"{pressed} aria-label="{text}: {title}">{text}'
        "</button>"
        for what, text, pressed in (
            ("xaxis", "log x", f' aria-pressed="{str(panel.log_x).lower()}"'),
            ("yaxis", "log y", f' aria-pressed="{str(panel.log_y).lower()}"'),
            ("csv", "CSV", ""),
        )
    )
    said = f"{_count(len(panel.curves), 'curve')} of {escape(panel.y)} by {escape(panel.x)}"
    return (
        f'<figure id="{place}"><figcaption><h3>{title}</h3>'
        f'<span class="buttons script">{buttons}</span></figcaption>\n'
        f'<div class="plot" role="img" aria-label="{title}: {said}"></div></figure>\n'
    )


def _notes(content: _Content) -> str:
    notes = [
        f"Curves have at most {content.most} points: of each stretch the first, the lowest and the "
        f"highest. Numbers in figures have {DIGITS} significant digits. A cross at the foot of a "
        "figure marks a value that was not finite.",
        "Drag to zoom; figures with the same x axis follow. Double click to see all again.",
    ]
    if any(curve.marks for panel in content.panels for curve in panel.curves):
        notes.append(decisions.NOTE)
    notes += [*full_lengths(content.runs), *apart.notes(content.runs)]
    notes += [
        f"{run.name}: {_count(run.metrics.unreadable, 'line')} of its log could not be read."
        for run in content.runs
        if run.metrics.unreadable
    ]
    return f"<footer>{''.join(f'<p>{escape(note)}</p>' for note in notes)}</footer>\n</main>\n"


def _data(content: _Content) -> str:
    """Return what the script draws, as JSON in which nothing can end the element it stands in."""
    numbers = {name: number for number, name in enumerate(families(content.shown))}
    across = extents(content.shown)
    drawn = [figure(panel, numbers, across.get(panel.x)) for panel in content.shown]
    for panel, plot in zip(content.shown, drawn, strict=True):
        plot |= {"title": panel.title, "x": panel.x, "y": panel.y}
    text = json.dumps({"most": content.most, "digits": DIGITS, "figures": drawn}, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
