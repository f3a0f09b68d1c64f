"""The grid of a comparison file -> its cells."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lengthen.config.load import flat, nested
from lengthen.config.schema import Tables
from lengthen.util.errors import SettingError

Axis = Mapping[str, Sequence[Any]]  # dotted setting -> its values, one for each point


PLACEHOLDERS = "placeholders"  # of a command: the table that all settings of its axes are of


def in_file(name: str) -> str:
    """Return what a comparison's file calls a setting of an axis."""
    return name.removeprefix(f"{PLACEHOLDERS}.")


def axes_of(given: object, *, within: str = "") -> list[Axis]:
    """Check the tables [[grid]] and return each as an axis; raises SettingError.

    `within` is the one table that all of its settings are of.
    """
    if not isinstance(given, list) or not all(isinstance(axis, dict) for axis in given):
        raise SettingError("grid", "must be [[grid]] tables, each one axis")
    axes: list[Axis] = []
    for tables in map(nested, [{within: axis} if within else axis for axis in given]):
        for table, settings in tables.items():
            if not isinstance(settings, dict):
                raise SettingError(f"grid.{table}", "must be a setting such as model.length")
        axis = flat(tables)
        for name, values in axis.items():
            if not isinstance(values, list) or not values:
                raise SettingError(f"grid.{in_file(name)}", "must be a list of values", values)
            if len(values) != len(next(iter(axis.values()))):
                rule = "settings of one [[grid]] move together, so their lists are equally long"
                raise SettingError(f"grid.{in_file(name)}", rule, values)
        if not axis:
            raise SettingError("grid", "has an axis without a setting")
        axes.append(axis)
    settings = [name for axis in axes for name in axis]
    for name in settings:
        if settings.count(name) > 1 or name == "run.seed":
            rule = "stands on two axes" if name != "run.seed" else "is what `seeds` sets"
            raise SettingError(f"grid.{in_file(name)}", rule)
    return axes


def cells_of(axes: Sequence[Axis]) -> dict[str, tuple[tuple[Any, ...], Tables]]:
    """Return each cell under its label: the first value on each axis, and all its settings."""
    points = list(itertools.product(*map(_points, axes)))
    cells = {
        _label(axes, point): (tuple(axis[0] for axis in point), _laid_over(axes, point))
        for point in points
    }
    if len(cells) < len(points):
        raise SettingError("grid", "has two values that look alike as a directory's name")
    return cells


def _points(axis: Axis) -> list[tuple[Any, ...]]:
    points = list(zip(*axis.values(), strict=True))
    for point in points:
        if points.count(point) > 1:
            name = in_file(next(iter(axis)))
            raise SettingError(f"grid.{name}", "has a value twice", point[0])
    return points


def _label(axes: Sequence[Axis], point: Sequence[tuple[Any, ...]]) -> str:
    """Name a cell by the first setting of each axis, such as `learning_rate=0.01,length=256`."""
    firsts = [next(iter(axis)) for axis in axes]
    shorts = [name.split(".")[1] for name in firsts]
    parts = []
    for name, short, values in zip(firsts, shorts, point, strict=True):
        word = name if shorts.count(short) > 1 else short
        parts.append(f"{word}={re.sub(r'[^A-Za-z0-9_.+-]+', '-', str(values[0]))}")
    return ",".join(parts)


def _laid_over(axes: Sequence[Axis], point: Sequence[tuple[Any, ...]]) -> Tables:
    changes: Tables = {}
    for axis, values in zip(axes, point, strict=True):
        for name, value in zip(axis, values, strict=True):
            table, _, setting = name.partition(".")
            changes.setdefault(table, {})[setting] = value
    return changes
