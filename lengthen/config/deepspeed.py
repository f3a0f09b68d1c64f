"""DeepSpeed's warmups of the length as settings of ours, and what differs in their arithmetic.

The length of its k-th step, k from 1, for `fixed_root`, and `fixed_linear` with a degree of 1:

    d(k) = floor((k / T) ** (1 / degree) * (max - min) + min), rounded down to a multiple

in floats, at most max; 0.19.8 raises it to the first multiple that is not below min.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

from lengthen.core.pacing import Fixed, Linear, Root, Staged, check_whole
from lengthen.util.errors import DataError, SettingError, nearest, one_line

LEGACY = "curriculum_learning"
EFFICIENCY = ("data_efficiency", "data_sampling", LEGACY)
# Metrics of its data efficiency that are lengths, and what each does with the rest of a row.
METRICS = {
    "seqlen": {"leftovers": "drop"},
    "seqlen_truncate": {"leftovers": "drop"},
    "seqlen_reshape": {"hold": "tokens"},
}
KINDS = ("fixed_linear", "fixed_root", "fixed_discrete")
Table = Mapping[str, Any]


class Imported(NamedTuple):
    """A warmup of DeepSpeed's, and ours."""

    pacing: Fixed
    theirs: Callable[[int], int]  # length of its k-th step, k from 1
    batch: Table

    def differences(self) -> Iterator[str]:
        """Yield what differs from DeepSpeed 0.19.8, a line each: steps, edges, rounding, tokens."""
        ours, theirs, last = self.pacing, self.theirs, self.pacing.duration
        steps = range(1, min(last, 2_000_000) + 1)  # as many as take seconds
        unequal = sum(theirs(k) != ours(k - 1) for k in steps)
        way = "max_step counts from 1, boundaries from 0"
        if not isinstance(ours, Staged):
            way = "its k-th step has f(k), ours f(k - 1)"
            rounded = sum(theirs(k) != ours(k) for k in steps)
            yield f"rounding: at the same argument floats and edges change {rounded} lengths"
            yield f"first step: {theirs(1)} tokens there, {ours(0)} here"
            later = (str(k) for k in range(last, 2 * last + 1) if theirs(k) >= ours.end)
            reached = next(later, "none of twice as many")
            yield f"end: {ours.end} tokens from step {reached} there, {last + 1} here"
        yield f"steps: {way}; {unequal} of {len(steps)} have another length"
        mine = sum(ours(k - 1) for k in steps)
        yield f"tokens: a row has {sum(map(theirs, steps))} in these steps there, {mine} here"
        yield "budget: trained tokens here; its global_samples are rows times steps at any length"


def imported(path: Path) -> Imported:
    """Read a configuration of DeepSpeed's; raises DataError, SettingError."""
    try:
        read = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({one_line(error)})") from None
    place, block, batch = _block(_table("the file", read))
    if (rows := read.get("train_batch_size", "auto")) != "auto":
        check_whole("train_batch_size", rows)
        batch = {"rows": rows, **batch}
    return Imported(*_translated(place, block), batch)


def _block(read: Table) -> tuple[str, Table, Table]:
    """Return the warmup of the length in a file: its place, itself, how a step is made."""
    if read.keys().isdisjoint({LEGACY, EFFICIENCY[0]}):
        raise SettingError("the file", f"has neither {LEGACY} nor {EFFICIENCY[0]}")
    old, place = read.get(LEGACY), ""
    # What is off leaves the other.
    is_off = isinstance(old, dict) and old.get("enabled") is not True and EFFICIENCY[0] in read
    places = EFFICIENCY if LEGACY not in read or is_off else (LEGACY,)
    for name in places:
        place = f"{place}.{name}".lstrip(".")
        read = _table(place, read.get(name))
        if read.get("enabled") is not True:
            raise SettingError(f"{place}.enabled", "must be true", read.get("enabled", False))
    metrics: Table = {str(read.get("curriculum_type", "seqlen")): read}
    if places is EFFICIENCY:
        place += ".curriculum_metrics"
        metrics = _table(place, read.get("curriculum_metrics"))
    for name in METRICS.keys() & metrics.keys():
        return place, _table(f"{place}.{name}", metrics[name]), METRICS[name]
    raise SettingError(place, f"paces no length ({', '.join(METRICS)})", ", ".join(metrics))


def _table(place: str, value: object) -> Table:
    if not isinstance(value, dict):
        raise SettingError(place, "must be a table", value)
    return value


def _translated(place: str, block: Table) -> tuple[Fixed, Callable[[int], int]]:
    if (kind := block.get("schedule_type")) not in KINDS:
        raise SettingError(f"{place}.schedule_type", "no such way", kind, nearest(str(kind), KINDS))
    schedule = _table(f"{place}.schedule_config", block.get("schedule_config"))
    start, end = (_number(place, block, f"{name}_difficulty") for name in ("min", "max"))
    if start > end:
        raise SettingError(f"{place}.min_difficulty", f"must be at most the max ({end})", start)
    if kind == "fixed_discrete":
        staged = _staged(f"{place}.schedule_config", schedule)
        if (reached := max(start, *staged.values[:-1])) >= end:
            rule = f"must be above {reached}, where its scheduler would stay"
            raise SettingError(f"{place}.max_difficulty", rule, end)
        return staged, lambda k: staged(k - 1)
    place += ".schedule_config"
    duration = _number(place, schedule, "total_curriculum_step")
    multiple = _number(place, schedule, "difficulty_step")
    sizes: Any = {"start": start, "end": end, "duration": duration, "multiple": multiple}
    degree = _number(place, schedule, "root_degree") if kind == "fixed_root" else 1

    def theirs(k: int) -> int:
        length: int = floor((k / duration) ** (1.0 / degree) * (end - start) + start)
        return min(end, max(length // multiple * multiple, -(-start // multiple) * multiple))

    return Root(**sizes, degree=degree) if degree > 1 else Linear(**sizes), theirs


def _staged(place: str, schedule: Table) -> Staged:
    lists: Any = [schedule.get(name) for name in ("difficulty", "max_step")]
    values, boundaries = (tuple(one) if isinstance(one, list) else one for one in lists)
    try:
        return Staged(values=values, boundaries=boundaries)
    except SettingError as error:
        name = {"values": "difficulty"}.get(error.setting, "max_step")
        raise SettingError(f"{place}.{name}", error.rule, error.value, error.hint) from None


def _number(place: str, table: Table, name: str) -> int:
    if name not in table:
        raise SettingError(f"{place}.{name}", "is missing")
    value: int = table[name]
    check_whole(f"{place}.{name}", value)
    return value
