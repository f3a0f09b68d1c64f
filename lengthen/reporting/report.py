"""Report on runs: as text, as one page, or as pictures."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from lengthen.reporting import html
from lengthen.reporting.comparability import alike
from lengthen.reporting.gather import NamedRun, gather
from lengthen.reporting.panels import evaluation_panels, panels_of, pictured
from lengthen.reporting.pictures import PICTURES, check_out, write_picture, write_pictures
from lengthen.reporting.text import lines
from lengthen.util.disk import PathOrPaths, as_paths, optional_path
from lengthen.util.errors import SettingError
from lengthen.util.tables import Printable, Table


@dataclass(frozen=True)
class Report(Printable):
    """What runs have shown; its text is what `lengthen report` prints."""

    runs: tuple[NamedRun, ...]  # the first is the baseline
    lines: tuple[Table | str, ...]  # lines and tables, in the order that they are printed
    page: Path | None  # where it was written as a page, or drawn

    @property
    def parts(self) -> tuple[Table | str, ...]:
        """What is printed, in order."""
        return self.lines


def report(
    runs: PathOrPaths,
    *,
    out: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
    title: str | None = None,
    losses: Sequence[float] = (),
    columns: Mapping[str, str] | None = None,
) -> Report:
    """Return what runs have shown: verdicts, final losses, instability, times, evaluations.

    `runs` are directories of runs, directories that hold some, packed studies, or other trainers'
    logs, whose CSV or JSONL `columns` translate, as {"step": "iteration", "loss": "train/loss"}.
    `losses` are validation losses, in nats, that runs are timed to. `out` is a page to write, with
    `title`, or a picture of the main figures, by its ending; `figures` is a directory that gets
    every figure as SVG and PNG. Raises SettingError and DataError.

    >>> report = lengthen.report("runs/first", out="first.html")
    >>> print(report.lines[0])
    first: stable...
    >>> report.page
    PosixPath('first.html')
    """
    for loss in losses:
        if not isinstance(loss, int | float) or not math.isfinite(loss):
            raise SettingError("--losses", "must be finite numbers of nats", loss)
    page, folder = optional_path("out", out), optional_path("figures", figures)
    if page is not None:
        check_out(page)
    gathered = gather(as_paths("runs", runs), columns)
    groups = alike(gathered).items()
    families = {run.name: name for name, members in groups for run in members if run.config}
    content = tuple(lines(gathered, losses, families))
    measured = evaluation_panels({run.name: run.results for run in gathered})
    every = [*measured, *panels_of(gathered, families)] if folder or _is_picture(page) else []
    if folder is not None:
        write_pictures(folder, every)
    if _is_picture(page):
        write_picture(page, pictured(every), every)
    elif page is not None:
        paths, more = as_paths("runs", runs), f" and {len(gathered) - 1} more"
        name = paths[0].name.removesuffix(SUFFIX) if len(paths) == 1 else gathered[0].name + more
        html.write(
            page,
            gathered,
            title=title or name,
            verdicts=[part for part in content if isinstance(part, str) and part[:1] != " "],
            tables=[part for part in content if isinstance(part, Table)],
            panels=measured,
            families=families,
        )
    return Report(tuple(gathered), content, page)


def _is_picture(out: Path | None) -> TypeGuard[Path]:
    return out is not None and out.suffix in PICTURES
