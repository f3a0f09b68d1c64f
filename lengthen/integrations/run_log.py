"""A run directory written from somebody else's loop, which `report` and `compare` read as ours."""

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w
import torch
from torch import Tensor
from torch.optim import Optimizer

from lengthen.core.ledger import State
from lengthen.core.loss_ratio import LowestLoss, finite_or_none, perplexity
from lengthen.data.stream import Step
from lengthen.distributed.subnormals import flushes_subnormals
from lengthen.integrations.data_plan import DataPlan
from lengthen.model.optim import second_moment_scale
from lengthen.model.shards import is_sharded
from lengthen.run.directory import RunPaths, owned
from lengthen.run.environment import environment
from lengthen.run.metrics import JsonLines, cut_metrics
from lengthen.run.records import EvalRecord, Event, ProbeRecord, Record, StepRecord, to_json
from lengthen.util.disk import Disk
from lengthen.util.errors import SettingError

if TYPE_CHECKING:
    from lengthen.data.store import Store  # which costs pydantic

Number = float | Tensor | np.generic  # one of them: a tensor's only element, whatever its shape


class RunLog:
    """Writes config.toml, environment.json and metrics.jsonl; one process of a run has it.

    >>> pacing = lengthen.Linear(start=8, end=64, duration=10)
    >>> plan = lengthen.DataPlan(pacing=pacing, rows=16, budget=100_000)
    >>> model = torch.nn.Linear(2, 2)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> log = lengthen.RunLog("runs/mine", plan)
    >>> for step, _ in lengthen.BatchStream(lengthen.Store.open("store").train, plan):
    ...     record = log.step(step, loss=2.5, grad_norm=1.0, optimizer=optimizer)
    >>> log.finish()
    >>> len(lengthen.read_metrics("runs/mine").steps)
    103
    """

    def __init__(
        self,
        out: str | Path,
        plan: DataPlan,
        *,
        store: "Store | None" = None,
        saved: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Begin a run in `out`, or continue the one there from the state `saved`.

        The directory is this log's until it is closed, or the process ends. Lines after that state
        go to metrics.discarded.jsonl. `overwrite` replaces the files of an earlier run there, and
        no others. Raises SettingError where `out` holds another run, BusyError where another
        process writes it, StorageError.
        """
        paths, disk = RunPaths(Path(out)), Disk()
        with ExitStack() as stack:
            if not paths.lock.exists():
                _check(paths, saved, overwrite)  # before the lock, which would be a file in there
            stack.enter_context(owned(paths.root))
            _check(paths, saved, overwrite)
            if saved is None:
                _begin(disk, paths, store)
            else:
                cut_metrics(disk, paths, saved["metrics_bytes"])
            tables = plan.tables()
            if store is not None:
                tables["data"] = {"path": str(store.path.resolve()), "store_id": store.id}
            disk.replace_file(paths.config, tomli_w.dumps(tables).encode())
            self._log = JsonLines(disk, paths.metrics)
            stack.callback(self._log.close)
            stack.callback(self._log.sync)  # before it: a state may be asked for afterwards
            self._stack, self._open = stack.pop_all(), True
        self._lowest = LowestLoss(saved["lowest"] if saved else None)
        self._probe_lowest = LowestLoss(saved["probe_lowest"] if saved else None)
        self._seconds: float = saved["seconds"] if saved else 0.0
        self._step: int = saved["at"]["step"] if saved else 0
        self._tokens: int = saved["at"]["tokens"] if saved else 0
        self._mark = time.monotonic()

    def step(
        self,
        step: Step,
        *,
        loss: Number,
        grad_norm: Number,
        optimizer: Optimizer,
        rate: Number | None = None,
    ) -> StepRecord:
        """Write a step after its update; return its line.

        `loss` is the step's mean over all its tokens, in nats, as it came, finite or not;
        `grad_norm` the global norm before clipping; `rate` that of the update, by default the one
        that the optimizer has now. Raises SettingError for what is no number.
        """
        loss, grad_norm = _number("loss", loss), _number("grad_norm", grad_norm)
        rate = _number("rate", optimizer.param_groups[0]["lr"] if rate is None else rate)
        seconds = self._seconds + time.monotonic() - self._mark
        norm, largest = _variance(optimizer)
        record = StepRecord(
            step=step.number,
            tokens=step.tokens,
            length=step.plan.length,
            rows=step.plan.rows,
            loss=finite_or_none(loss),
            loss_ratio=self._lowest.ratio(loss),
            grad_norm=finite_or_none(grad_norm),
            variance_norm=norm,
            variance_max=largest,
            lr=finite_or_none(rate),
            joined=step.joined,
            seconds=seconds,
            finite=math.isfinite(loss) and math.isfinite(grad_norm),
        )
        self._write(record)
        # Only now: where the disk failed it may be written once more.
        self._step, self._tokens, self._seconds = step.number, step.tokens, seconds
        self._lowest = self._lowest.after(loss)
        return record

    def evaluation(
        self,
        loss: Number,
        *,
        side_tokens: Number | None = None,
        side_seconds: Number | None = None,
    ) -> EvalRecord:
        """Write a validation loss at full length, in nats per token, and what it read and took."""
        loss = _number("loss", loss)
        now = self._now(loss, side_tokens, side_seconds)
        record = EvalRecord(**now, perplexity=finite_or_none(perplexity(loss)))
        self._write(record)
        return record

    def probe(
        self,
        loss: Number,
        *,
        side_tokens: Number | None = None,
        side_seconds: Number | None = None,
    ) -> ProbeRecord:
        """Write the loss of some full-length sequences, always the same, and its own loss ratio."""
        loss = _number("loss", loss)
        now = self._now(loss, side_tokens, side_seconds)
        record = ProbeRecord(**now, loss_ratio=self._probe_lowest.ratio(loss))
        self._write(record)
        self._probe_lowest = self._probe_lowest.after(loss)
        return record

    def finish(self) -> None:
        """Say that the run has come to its end, and close the log."""
        self._write(Event("finished", self._step, self._tokens))
        self.close()

    def close(self) -> None:
        """Close the log and leave its directory; the run may resume another time."""
        self._open = False
        self._stack.close()

    def mark(self) -> None:
        """Leave the time since the last line out of the training time: it went into a save."""
        self._mark = time.monotonic()

    def state_dict(self) -> State:
        """Return where the log stands, for JSON; what it counts on is on the disk."""
        if self._open:
            self._log.sync()
        return {
            "metrics_bytes": self._log.size,
            "lowest": self._lowest.value,
            "probe_lowest": self._probe_lowest.value,
            "seconds": self._seconds,
            "at": {"step": self._step, "tokens": self._tokens},
        }

    def _now(self, loss: float, tokens: Number | None, seconds: Number | None) -> dict[str, Any]:
        """Return what evaluations and probes have in common."""
        return {
            "step": self._step,
            "tokens": self._tokens,
            "seconds": self._seconds,
            "loss": finite_or_none(loss),
            "side_tokens": None if tokens is None else int(_number("side_tokens", tokens)),
            "side_seconds": None if seconds is None else _number("side_seconds", seconds),
        }

    def _write(self, record: Record) -> None:
        if not self._open:  # another log may have gone on with the run
            hint = "RunLog(out, plan, saved=log.state_dict()) continues the run"
            raise SettingError("log", "is closed", None, hint)
        self._log.write(to_json(record))
        self.mark()


def _number(name: str, value: object) -> float:
    """Return the number in a tensor, an array or Python's own; raises SettingError for none."""
    size = value.numel() if isinstance(value, Tensor) else getattr(value, "size", 1)
    if isinstance(value, Tensor | np.ndarray | np.generic) and size == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "take the mean of a tensor with more" if size != 1 else ""
        raise SettingError(name, "must be one number", value, hint)
    return float(value)


def _check(paths: RunPaths, saved: Mapping[str, Any] | None, overwrite: bool) -> None:
    """Raise SettingError where a log can neither begin nor, from `saved`, continue."""
    found = paths.metrics.stat().st_size if paths.metrics.is_file() else 0
    if saved is not None:
        if found < saved["metrics_bytes"]:
            has = f"{saved['metrics_bytes']} bytes or more"
            rule = f"must be the run of the checkpoint, whose metrics.jsonl has {has}"
            raise SettingError("out", rule, str(paths.root))
        return
    if overwrite and paths.checkpoints.exists():
        raise SettingError("out", "must hold no checkpoints of another run", str(paths.root))
    own = _own(paths)
    # An empty log is what a run leaves that ended before its first step.
    if own and not overwrite and (found or paths.metrics not in own):
        rule = f"must be a new directory, this one has {own[0].name}"
        hint = "overwrite=True replaces that run; or choose another, or resume its checkpoint"
        raise SettingError("out", rule, str(paths.root), hint)


def _own(paths: RunPaths) -> list[Path]:
    files = paths.metrics, paths.discarded, paths.environment, paths.config
    return [path for path in files if path.exists()]


def _begin(disk: Disk, paths: RunPaths, store: "Store | None") -> None:
    for path in _own(paths):
        disk.remove(path)
    facts = environment(sys.argv) | {
        "threads": torch.get_num_threads(),
        "flush_subnormals": flushes_subnormals(),  # as the host has it: its mode is left alone
    }
    if store is not None:
        facts |= {"tokenizer": store.manifest.tokenizer.sha256, **store.manifest.validation()}
    disk.write_file(paths.environment, json.dumps(facts, indent=1).encode())


def _variance(optimizer: Optimizer) -> tuple[float | None, float | None]:
    """Return variance norm and max; None for an optimizer without a second moment as Adam's.

    None of shards too: only the process that logs is here, and the others have theirs.
    """
    moments = [state["exp_avg_sq"] for state in optimizer.state.values() if "exp_avg_sq" in state]
    if not moments or any(map(is_sharded, moments)):
        return None, None
    norm, largest = second_moment_scale(optimizer).tolist()
    return finite_or_none(norm), finite_or_none(largest)
