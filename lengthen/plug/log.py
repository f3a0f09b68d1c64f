"""A run directory written from somebody else's loop, which `report` and `compare` read as ours."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch.optim import Optimizer

from lengthen.corpus.store import Store
from lengthen.disk import Disk
from lengthen.errors import SettingError
from lengthen.evaluate.perplexity import perplexity
from lengthen.ledger import State
from lengthen.monitor import LowestLoss, finite_or_none
from lengthen.optim import second_moment_scale
from lengthen.plug.course import Course, Step
from lengthen.runlog import MetricsLog, Record, RunPaths, cut_metrics, environment
from lengthen.subnormals import flushes_subnormals


class RunLog:
    """Writes config.toml, environment.json and metrics.jsonl; one process of a run has it."""

    def __init__(
        self,
        out: str | Path,
        course: Course,
        *,
        store: Store | None = None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin a run in `out`, or go on with the one there from the state `saved`.

        Lines behind that state go to metrics.discarded.jsonl. Raises SettingError where `out`
        holds a run that is not to go on, or not the one that goes on; StorageError.
        """
        self._paths, self._disk = RunPaths(Path(out)), Disk()
        if saved is None:
            _begin(self._disk, self._paths, store)
        else:
            _go_back(self._disk, self._paths, saved["metrics_bytes"])
        self._disk.replace_file(self._paths.config, _config(course, store))
        self._log = MetricsLog(self._disk, self._paths.metrics)
        self._lowest = LowestLoss(saved["lowest"] if saved else None)
        self._probe_lowest = LowestLoss(saved["probe_lowest"] if saved else None)
        self._seconds: float = saved["seconds"] if saved else 0.0
        self._at: Record = {"step": 0, "tokens": 0} if saved is None else dict(saved["at"])
        self._mark = time.monotonic()

    def step(
        self,
        step: Step,
        *,
        loss: float,
        grad_norm: float,
        optimizer: Optimizer,
        rate: float | None = None,
    ) -> Record:
        """Write a step after its update; return its line.

        `loss` is the step's mean over all its tokens, in nats, as it came, finite or not;
        `grad_norm` the global norm before clipping; `rate` that of the update, by default the one
        that the optimizer has now.
        """
        self._seconds += time.monotonic() - self._mark
        self._at = {"step": step.number, "tokens": step.tokens}
        norm, largest = _variance(optimizer)
        record: Record = {
            "kind": "step",
            **self._at,
            "length": step.shape.length,
            "rows": step.shape.rows,
            "loss": finite_or_none(loss),
            "loss_ratio": self._lowest.ratio(loss),
            "grad_norm": finite_or_none(grad_norm),
            "variance_norm": norm,
            "variance_max": largest,
            "lr": float(optimizer.param_groups[0]["lr"]) if rate is None else rate,
            "joined": step.joined,
            "seconds": self._seconds,
        }
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            record["finite"] = False
        self._lowest = self._lowest.after(loss)
        return self._write(record)

    def evaluation(self, loss: float, *, side_seconds: float | None = None) -> Record:
        """Write a validation loss at full length, in nats per token, and the time that it took."""
        figures: Record = {"split": "valid", "loss": finite_or_none(loss)}
        figures |= {"perplexity": finite_or_none(perplexity(loss))}
        return self._aside("eval", figures, side_seconds)

    def probe(self, loss: float, *, side_seconds: float | None = None) -> Record:
        """Write the loss of some full-length sequences, always the same, and its own loss ratio."""
        figures = {"loss": finite_or_none(loss), "loss_ratio": self._probe_lowest.ratio(loss)}
        self._probe_lowest = self._probe_lowest.after(loss)
        return self._aside("probe", figures, side_seconds)

    def finish(self) -> None:
        """Say that the run has come to its end, and close the log."""
        self._write({"kind": "event", "event": "finished", **self._at})
        self.close()

    def close(self) -> None:
        """Close the log, whose run may go on another time."""
        self._log.close()

    def mark(self) -> None:
        """Leave the time since the last line out of the training time: it went into a save."""
        self._mark = time.monotonic()

    def state_dict(self) -> State:
        """Return where the log stands, for JSON; what it counts on is on the disk."""
        self._log.sync()
        return {
            "metrics_bytes": self._log.size,
            "lowest": self._lowest.value,
            "probe_lowest": self._probe_lowest.value,
            "seconds": self._seconds,
            "at": dict(self._at),
        }

    def _aside(self, kind: str, figures: Record, side_seconds: float | None) -> Record:
        cost = {} if side_seconds is None else {"side_seconds": side_seconds}
        return self._write({"kind": kind, **self._at, "seconds": self._seconds, **figures, **cost})

    def _write(self, record: Record) -> Record:
        self._log.write(record)
        self.mark()
        return record


def _begin(disk: Disk, paths: RunPaths, store: Store | None) -> None:
    own = [path for path in (paths.metrics, paths.environment, paths.config) if path.exists()]
    # An empty log is what a run leaves that ended before its first step.
    if own and not (paths.metrics in own and paths.metrics.stat().st_size == 0):
        rule = f"must be a new directory, this one has a {own[0].name}"
        hint = "remove that run, choose another, or resume its checkpoint"
        raise SettingError("out", rule, str(paths.root), hint)
    for path in own:
        disk.remove(path)
    paths.root.mkdir(parents=True, exist_ok=True)
    facts = environment(sys.argv) | {
        "threads": torch.get_num_threads(),
        "flush_subnormals": flushes_subnormals(),  # as the host has it: its mode is left alone
    }
    if store is not None:
        facts |= {"tokenizer": store.manifest.tokenizer.sha256}
        facts |= {"valid": store.manifest.valid.sha256}
    disk.write_file(paths.environment, json.dumps(facts, indent=1).encode())


def _config(course: Course, store: Store | None) -> bytes:
    tables = course.tables()
    if store is not None:
        tables["data"] = {"path": str(store.path.resolve()), "store_id": store.id}
    return tomli_w.dumps(tables).encode()


def _go_back(disk: Disk, paths: RunPaths, size: int) -> None:
    found = paths.metrics.stat().st_size if paths.metrics.is_file() else 0
    if found < size:
        rule = f"must be the run of the checkpoint, whose metrics.jsonl has {size} bytes or more"
        raise SettingError("out", rule, str(paths.root))
    cut_metrics(disk, paths, size)


def _variance(optimizer: Optimizer) -> tuple[float | None, float | None]:
    """Return variance norm and max; None for an optimizer without a second moment as Adam's."""
    if not any("exp_avg_sq" in state for state in optimizer.state.values()):
        return None, None
    norm, largest = second_moment_scale(optimizer).tolist()
    return finite_or_none(norm), finite_or_none(largest)
