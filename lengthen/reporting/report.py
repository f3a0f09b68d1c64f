"""Report on runs: as text, or as one page."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lengthen.reporting import html
from lengthen.reporting.comparability import alike
from lengthen.reporting.gather import NamedRun, gather
from lengthen.reporting.panels import evaluation_panels
from lengthen.reporting.text import lines
from lengthen.util.disk import PathOrPaths, as_paths, optional_path
from lengthen.util.errors import SettingError
from lengthen.util.tables import Printable, Table


@dataclass(frozen=True)
class Report(Printable):
    """What runs have shown; its text is what `lengthen report` prints."""

    runs: tuple[NamedRun, ...]  # the first is the baseline
    lines: tuple[Table | str, ...]  # lines and tables, in the order that they are printed
    page: Path | None  # where it was written as a page

    @property
    def parts(self) -> tuple[Table | str, ...]:
        """What is printed, in order."""
        return self.lines


def report(
    runs: PathOrPaths,
    *,
    out: str | os.PathLike[str] | None = None,
    title: str | None = None,
    losses: Sequence[float] = (),
    columns: Mapping[str, str] | None = None,
) -> Report:
    """Return what runs have shown: verdicts, instability, times, evaluations.

    `runs` are directories of runs, directories that hold some, packed studies, or other trainers'
    logs, whose CSV or JSONL `columns` translate, as {"step": "iteration", "loss": "train/loss"}.
    `losses` are validation losses, in nats, that runs are timed to. `out` is a page to write, with
    `title`. Raises SettingError and DataError.

    >>> report = lengthen.report("runs/first", out="first.html")
    >>> print(report.lines[0])
    first: stable...
    >>> report.page
    PosixPath('first.html')
    """
    for loss in losses:
        if not isinstance(loss, int | float) or not math.isfinite(loss):
            raise SettingError("--losses", "must be finite numbers of nats", loss)
    page = optional_path("out", out)
    gathered = gather(as_paths("runs", runs), columns)
    families = {
        run.name: name for name, members in alike(gathered).items() for run in members if run.config
    }
    content = tuple(lines(gathered, losses, families))
    if page is not None:
        more = f" and {len(gathered) - 1} more" if len(gathered) > 1 else ""
        html.write(
            page,
            gathered,
            title=title or f"{gathered[0].name}{more}",
            verdicts=[part for part in content if isinstance(part, str) and part[:1] != " "],
            tables=[part for part in content if isinstance(part, Table)],
            panels=evaluation_panels({run.name: run.results for run in gathered}),
            families=families,
        )
    return Report(tuple(gathered), content, page)
