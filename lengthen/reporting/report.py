"""Report on runs: as text, as one page, as figures, in a notebook."""

import math
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lengthen.reporting import html
from lengthen.reporting.comparability import alike
from lengthen.reporting.curves import Panel
from lengthen.reporting.gather import NamedRun, gather, runs_below
from lengthen.reporting.panels import evaluation_panels, panels_of
from lengthen.reporting.text import lines
from lengthen.reporting.trackers import check_trackers, write_to
from lengthen.run.packed import SUFFIX
from lengthen.util.disk import Disk, PathOrPaths, as_paths, optional_path, storage_errors
from lengthen.util.errors import SettingError, printable
from lengthen.util.tables import Printable, Table

LETTERS = 80  # of a figure's title, in a file's name


@dataclass(frozen=True, repr=False)
class Report(Printable):
    """What runs have shown; its text is what `lengthen report` prints, a notebook shows figures."""

    runs: tuple[NamedRun, ...]  # the first is the baseline
    lines: tuple[Table | str, ...]  # lines and tables, in the order that they are printed
    page: Path | None  # where it was written as a page

    @property
    def parts(self) -> tuple[Table | str, ...]:
        """What is printed, in order."""
        return self.lines

    def _repr_html_(self) -> str:
        figures = (b64encode(svg).decode() for _, svg in _figures(_panels(self.runs), (".svg",)))
        images = (f'<img src="data:image/svg+xml;base64,{figure}">' for figure in figures)
        return "\n".join([super()._repr_html_(), *images])


def report(
    runs: PathOrPaths,
    *,
    out: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
    title: str | None = None,
    losses: Sequence[float] = (),
    columns: Mapping[str, str] | None = None,
    to: str | None = None,
) -> Report:
    """Return the results of runs: stability, final losses, correlations, times, evaluations.

    `runs` are directories of runs, directories that hold some, packed studies, or other trainers'
    logs, whose CSV or JSONL `columns` translate, as {"step": "iteration", "loss": "train/loss"}.
    `losses` are validation losses, in nats: shown is when runs reached them. `out` is a page to
    write, with `title`; `figures` is a directory for every figure as SVG and PNG; `to` is a tracker
    for the records, "tensorboard" or "wandb". Raises SettingError and DataError.

    >>> report = lengthen.report("runs/first", out="first.html")
    >>> print(report.lines[0])
    first: stable...
    >>> report.page
    PosixPath('first.html')
    """
    losses = tuple(losses)  # of an array of numpy nobody can ask whether it is empty
    for loss in losses:
        if not isinstance(loss, int | float) or not math.isfinite(loss):
            raise SettingError("--losses", "must be finite numbers of nats", loss)
    page, folder = optional_path("out", out), optional_path("figures", figures)
    if page is not None and page.suffix != ".html":
        hint = "--figures DIR writes each figure as SVG and PNG"
        raise SettingError("--out", "must end in .html", str(page), hint)
    paths = as_paths("runs", runs)
    if to is not None:
        check_trackers("--to", [to])
    gathered = gather(paths, columns)
    families = _families(gathered)
    brief = page is None and len(gathered) == 1
    content = tuple(lines(gathered, losses, families, brief=brief))
    if to is not None:
        write_to(to, [run for path in paths for run in runs_below(path)])
    if folder is not None:
        _draw(folder, _panels(gathered))
    if page is not None:
        several = f"{gathered[0].name} and {len(gathered) - 1} more"
        if len(paths) == 1:
            several = printable(paths[0].resolve().name.removesuffix(SUFFIX))
        html.write(
            page,
            gathered,
            title=title or (several if len(gathered) > 1 else gathered[0].name),
            verdicts=[part for part in content if isinstance(part, str) and part[:1] != " "],
            tables=[part for part in content if isinstance(part, Table)],
            panels=_measured(gathered),
            families=families,
        )
    return Report(tuple(gathered), content, page)


def _families(runs: Sequence[NamedRun]) -> dict[str, str]:
    """Return the family of each run by its name: those differ by their seeds alone."""
    return {run.name: name for name, members in alike(runs).items() for run in members}


def _measured(runs: Sequence[NamedRun]) -> list[Panel]:
    return evaluation_panels({run.name: run.results for run in runs})


def _panels(runs: Sequence[NamedRun]) -> list[Panel]:
    """Return every panel with a curve."""
    panels = [*_measured(runs), *panels_of(runs, _families(runs))]
    return [panel for panel in panels if any(curve.points for curve in panel.curves)]


def _figures(panels: Sequence[Panel], kinds: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield each panel as a file of each kind: its name and its content."""
    from lengthen.reporting.figures import draw  # matplotlib, which nothing else waits for

    for number, panel in enumerate(panels, 1):
        name = f"{number:02}-{re.sub('[^a-z0-9]+', '-', panel.title.lower())[:LETTERS].strip('-')}"
        for kind in kinds:
            yield f"{name}{kind}", draw([panel], kind, panels)


def _draw(folder: Path, panels: Sequence[Panel]) -> None:
    """Write each panel as an SVG and a PNG into `folder`; raises SettingError."""
    if folder.exists() and not folder.is_dir():
        raise SettingError("--figures", "must be a directory", str(folder))
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in _figures(panels, (".svg", ".png")):
        Disk().replace_file(folder / name, content)
