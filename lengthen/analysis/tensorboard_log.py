"""TensorBoard's files as rows of a log: a row for each step, its scalars under their tags."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from lengthen.util.errors import SettingError

FILES = "*tfevents*"


def reader() -> Any:
    """Return TensorBoard's own reader of a folder; raises SettingError where it is missing."""
    try:
        return import_module("tensorboard.backend.event_processing.event_accumulator")
    except ImportError:
        hint = 'pip install "lengthen[trackers]"'
        raise SettingError("log.kind", "needs the package tensorboard", hint=hint) from None


def rows_below(folder: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (step, row) of all files at any depth below `folder`, in the order of steps."""
    rows: dict[int, dict[str, object]] = {}
    for below in sorted({file.parent for file in folder.rglob(FILES)}):
        events = reader().EventAccumulator(str(below), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                rows.setdefault(event.step, {"step": event.step})[tag] = event.value
    yield from sorted(rows.items(), key=lambda row: row[0])
