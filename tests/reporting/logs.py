"""Runs as reports see them, made up."""

import math
from collections.abc import Iterator
from typing import Any

from lengthen.reporting.gather import NamedRun
from tests.logs import Line, metrics


def records(steps: int, spike: int = 0) -> Iterator[Line]:
    """Yield a log whose loss falls, but for one step."""
    for step in range(1, steps + 1):
        counters = {"step": step, "tokens": 512 * step, "seconds": 0.25 * step}
        loss = 3 + 4 / step**0.5
        yield {
            "kind": "step",
            **counters,
            "length": 64,
            "rows": 8,
            "loss": loss,
            "loss_ratio": None if step == 1 else 1.75 if step == spike else 0.99,
            "grad_norm": 1 + 1 / step,
            "variance_norm": 20.0 + step % 7,
            "variance_max": 0.001 * (1 + step % 5),
            "lr": 1e-3,
            "joined": 0.0,
        }
        if step % 10 == 0:
            yield {"kind": "probe", **counters, "loss": loss, "loss_ratio": 0.98}
            yield {"kind": "eval", **counters, "loss": loss, "perplexity": math.exp(loss)}


def run(
    name: str,
    steps: int = 30,
    *,
    spike: int = 0,
    config: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
) -> NamedRun:
    """Return a run of `steps` steps under this name."""
    return NamedRun(name, metrics(*records(steps, spike)), environment or {}, config or {})


def run_of(*lines: Line, name: str = "run") -> NamedRun:
    """Return a run with these records alone."""
    return NamedRun(name, metrics(*lines), {}, {})
