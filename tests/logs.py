"""Lines of logs, and logs of them, as tests plant them."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lengthen.run.directory import Metrics, Record, read_metrics


def evaluation(step: int, loss: float | None) -> Record:
    return {"kind": "eval", "step": step, "tokens": 100 * step, "seconds": 0.5 * step, "loss": loss}


def step(number: int, ratio: float | None = 1.0, **more: object) -> Record:
    counters = {"step": number, "tokens": 100 * number, "seconds": 0.5 * number, "length": 64}
    return {"kind": "step", **counters, "loss": 5.0, "loss_ratio": ratio, **more}


def bad(number: int) -> Record:
    return step(number, None, loss=None, finite=False)


def probe(number: int, ratio: float | None = 1.0, **more: object) -> Record:
    return {"kind": "probe", "step": number, "loss": 5.0, "loss_ratio": ratio, **more}


def metrics(*records: Record, unreadable: int = 0) -> Metrics:
    return Metrics(records, unreadable)


def through_a_file(records: Sequence[Record]) -> Metrics:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return read_metrics(path)
