"""Lines of logs, and logs of them, as tests plant them."""

import json
from collections.abc import Mapping
from typing import Any

from lengthen.run.metrics import Metrics
from lengthen.run.records import Record, from_json

Line = dict[str, Any]  # as it is written, before it is JSON


def evaluation(step: int, loss: float | None) -> Line:
    return {"kind": "eval", "step": step, "tokens": 100 * step, "seconds": 0.5 * step, "loss": loss}


def step(number: int, ratio: float | None = 1.0, **more: object) -> Line:
    counters = {"step": number, "tokens": 100 * number, "seconds": 0.5 * number, "length": 64}
    return {"kind": "step", **counters, "loss": 5.0, "loss_ratio": ratio, **more}


def bad(number: int) -> Line:
    return step(number, None, loss=None, finite=False)


def probe(number: int, ratio: float | None = 1.0, **more: object) -> Line:
    return {"kind": "probe", "step": number, "loss": 5.0, "loss_ratio": ratio, **more}


def skipped(number: int, *, diverged: bool) -> Line:
    return {"kind": "event", "event": "skipped", "step": number, "diverged": diverged}


def observation(step: int, length: int, next_length: int, loss: float | None) -> Line:
    lengths = {"length": length, "loss": loss, "next_length": next_length}
    decided = {"lowest": None, "calm": 1, "steps_at_length": step, "forced": False}
    return {"kind": "observation", "step": step, "tokens": 64 * step, **lengths, **decided}


def record(line: Mapping[str, Any]) -> Record:
    read = from_json(json.dumps(line).encode() + b"\n")
    assert read is not None, line
    return read


def metrics(*lines: Mapping[str, Any], unreadable: int = 0) -> Metrics:
    return Metrics(tuple(map(record, lines)), unreadable)
