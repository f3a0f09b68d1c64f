"""Panels as picture files: all in one, or a file for each; what a file's ending may be."""

import re
from collections.abc import Sequence
from pathlib import Path

from lengthen.reporting.curves import Panel
from lengthen.util.disk import Disk, storage_errors
from lengthen.util.errors import SettingError

PAGE = ".html"
PICTURES = (".svg", ".png")
LETTERS = 80  # of a title, in a file's name


def check_out(out: Path) -> None:
    """Raise SettingError where neither a picture nor a page can become the file `out`."""
    if out.suffix not in (*PICTURES, PAGE):
        raise SettingError("--out", f"must end in {', '.join(PICTURES)} or {PAGE}", str(out))
    if out.is_dir() or not out.parent.is_dir():
        raise SettingError("--out", "must be a file in a directory that exists", str(out))


def write_picture(out: Path, panels: Sequence[Panel], among: Sequence[Panel] = ()) -> None:
    """Write the panels, one below the other, as an SVG or a PNG; looks are those `among` panels."""
    from lengthen.reporting.figures import draw  # matplotlib, which no other command waits for

    Disk().replace_file(out, draw(panels, out.suffix, among or panels))


def write_pictures(folder: Path, panels: Sequence[Panel]) -> None:
    """Write each panel with a curve as an SVG and a PNG into `folder`; raises SettingError."""
    if folder.exists() and not folder.is_dir():
        raise SettingError("--figures", "must be a directory", str(folder))
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    shown = [panel for panel in panels if any(curve.points for curve in panel.curves)]
    for number, panel in enumerate(shown, 1):
        words = re.sub(r"[^a-z0-9]+", "-", panel.title.lower())[:LETTERS].strip("-")
        for kind in PICTURES:
            write_picture(folder / f"{number:02}-{words}{kind}", [panel], shown)
