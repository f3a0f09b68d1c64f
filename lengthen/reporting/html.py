"""One self-contained page about runs: verdicts, final losses, linked figures, other tables folded.

It opens from disk, asks no network for anything, and needs a script for the figures alone.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import ModuleType

from lengthen.reporting import comparability
from lengthen.reporting.curves import Panel, looks
from lengthen.reporting.gather import NamedRun
from lengthen.reporting.html_figures import DIGITS, extents, figure
from lengthen.reporting.panels import panels_of, points_per_curve, timed_alone
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError
from lengthen.util.overwrite import check_file
from lengthen.util.tables import Table, counted, is_numeric

OPENING = "<!DOCTYPE html>\n<!-- a report of lengthen -->\n"
FIRST = 2  # verdicts that leave room for the final losses on the first screen; the rest is folded
DOWNLOAD = '<button type="button" class="script" data-format="{0}">{0}</button>'
UNTIMED = "Nothing is drawn along seconds: runs shared a machine, or their machines differ."
FOLDED = ("<details><summary><h2>{}</h2></summary>", "</details>")
SCRIPTS = re.compile(r"<script>(.*?)</script>", re.DOTALL)


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

    Verdicts, plain sentences, come first, then the first of `tables`, then `panels` and the
    standard panels of the runs, then, folded, the other tables and where settings and environments
    differ; without a run, what is given alone. `families` maps a run's name to its family
    (curves.Curve). Equal input gives equal bytes, about 5 MB of them the plotting script.
    Raises SettingError where `out` cannot be a file, StorageError where the disk refuses it.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise SettingError("--out", "must be a file in a directory that exists", str(out))
    must_be_ours(out)
    most = points_per_curve(len(runs))
    of_runs = panels_of(runs, families) if runs else []
    every = [panel.thinned(most) for panel in (*panels, *of_runs)]
    shown = [panel for panel in every if panel.curves]
    empty = [panel.title for panel in every if not panel.curves]
    settings = comparability.settings_table(runs)
    last = [*([settings] if settings else []), *comparability.environment_tables(runs)]
    body = "".join(
        [
            _header(title, runs),
            _verdicts(verdicts),
            *(_table(table, "<section><h2>{}</h2>", "</section>") for table in tables[:1]),
            *_figures(shown),
            *(_table(table, *FOLDED) for table in [*tables[1:], *last]),
            _footer(runs, empty, most),
            f"<script>{_file('page.js')}</script>\n</body>\n</html>\n",
        ]
    )
    # Text from a file can hold half of a pair of surrogates, which no encoding has.
    Disk().replace_file(out, (_head(title, body) + body).encode("utf-8", "replace"))


def must_be_ours(out: Path) -> None:
    """Raise SettingError where `out` is there already and is no page of ours."""
    check_file(out, "report", lambda path: _opening_of(path) == OPENING.encode())


def _opening_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(OPENING))


def _head(title: str, body: str) -> str:
    # The page may load nothing and run its own scripts alone, whatever else got into it.
    digests = (hashlib.sha256(script.encode()).digest() for script in SCRIPTS.findall(body))
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    )
    return (
        f'{OPENING}<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>\n"
    )


def _file(name: str) -> str:
    return files("lengthen.reporting").joinpath(name).read_text(encoding="utf-8")


def _header(title: str, runs: Sequence[NamedRun]) -> str:
    steps = sum(len(run.metrics.steps) for run in runs)
    size = f"{counted(len(runs), 'run')}, {counted(steps, 'step')} in all"
    size = size if runs else "worked out, before any run"
    return f"<header><h1>{escape(title)}</h1>\n<p>{size}</p></header>\n<main>\n"


def _verdicts(verdicts: Sequence[str]) -> str:
    if not verdicts:
        return ""
    items = [f"<li>{escape(verdict)}</li>\n" for verdict in verdicts]
    more = f"<summary>{len(items) - FIRST} more</summary>"
    rest = f"<details>{more}<ul>\n{''.join(items[FIRST:])}</ul></details>\n"
    return (
        f'<div class="verdicts"><ul aria-label="Verdict">\n{"".join(items[:FIRST])}</ul>\n'
        f"{rest if len(items) > FIRST else ''}</div>\n"
    )


def _table(table: Table, before: str, after: str) -> str:
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    kinds = [' class="number"' if is_numeric(column) else "" for column in columns[1:]]
    rows = ""
    for first, *row in table.rows:
        cells = (f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        rows += f'<tr><th scope="row">{_breakable(first)}</th>{"".join(cells)}</tr>\n'
    head = "".join(
        f'<th scope="col"{kind}>{_breakable(name)}</th>'
        for name, kind in zip(table.columns, ["", *kinds], strict=True)
    )
    note = f'<p class="note">{escape(table.note)}</p>\n' if table.note else ""
    title = escape(table.title)
    return (
        f"{before.format(title)}\n"
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n{note}{after}\n"
    )


def _breakable(name: str) -> str:
    """Return a dotted name or a path, escaped, that may be broken after its parts, no number."""
    return re.sub(r"(?<=[./_=])(?!(?<=\d\.)\d)(?=[^./_=])", "<wbr>", escape(name))


def _figures(shown: Sequence[Panel]) -> Iterator[str]:
    yield '<section aria-label="Figures">\n'
    yield '<noscript><p class="note">Figures need JavaScript; the rest does not.</p></noscript>\n'
    yield f"<script>{_plotly('offline').get_plotlyjs()}</script>\n"
    known, extent = looks(shown), extents(shown)
    downloads = "".join(map(DOWNLOAD.format, ("SVG", "PNG")))
    config = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["toImage"]}
    for number, panel in enumerate(shown):
        plot = _plotly("io").to_html(
            figure(panel, known, extent[panel.x]),
            config=config,
            include_plotlyjs=False,
            full_html=False,
            validate=False,  # a test does it
            div_id=f"plot-{number}",
        )
        title = f"<h3>{escape(panel.title)}</h3>{downloads}"
        yield f'<figure id="figure-{number}"><figcaption>{title}</figcaption>\n{plot}</figure>\n'
    yield "</section>\n"


def _plotly(part: str) -> ModuleType:
    try:
        return import_module(f"plotly.{part}")
    except ModuleNotFoundError:
        raise DataError(
            "the page needs the package plotly; install it with `pip install plotly`"
        ) from None


def _footer(runs: Sequence[NamedRun], empty: Sequence[str], most: int) -> str:
    notes = [f"Nothing was recorded for: {'; '.join(empty)}."] if empty else []
    notes += [
        *([] if timed_alone(runs) else [UNTIMED]),
        f"Curves have at most {most} points: of each stretch the first, the lowest and the "
        f"highest. Numbers in figures have {DIGITS} significant digits. A cross at the foot of a "
        "figure marks a value that was not finite.",
        "Drag to zoom; figures with the same x axis follow. Double click to see all again. Click "
        "a name in a legend to hide its curves in all figures; double click to see no others.",
    ]
    notes += comparability.notes(runs)
    notes += [
        f"{run.name}: {counted(run.metrics.unreadable, 'line')} of its log could not be read."
        for run in runs
        if run.metrics.unreadable
    ]
    return f"<footer>{''.join(f'<p>{escape(note)}</p>' for note in notes)}</footer>\n</main>\n"
