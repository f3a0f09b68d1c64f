"""The seconds that `plan` predicts, beside those that the training then takes.

    python -m benchmarks.plan                    about five minutes on two cores
    python -m benchmarks.plan --share 0.2        a quick look

Each is calibrated as `lengthen plan` does it, at most 20 seconds, and then trained from end to end
with its evaluations, probes and saves; the figure is predicted / measured seconds of training. The
three differ in all that a step's time hangs on: width and vocabulary, full length, what is held
and what is paced.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import furthest, report
from benchmarks.step import real_store
from lengthen.config.load import build
from lengthen.config.schema import Config
from lengthen.planning.forecast import forecasts
from lengthen.training.start import train

RATES: dict[str, Any] = {"learning_rate": 1e-3, "warmup_steps": 10}
TRAININGS: dict[str, dict[str, Any]] = {
    # The rows stay: micro-batches grow from a few hundred tokens to full ones.
    "ROWS_HELD": {
        "model": {"layers": 4, "width": 128, "heads": 4, "length": 256},
        "pacing": {"kind": "linear", "start": 16, "duration": 60},
        "batch": {"rows": 32},
        "budget": {"tokens": 600_000},
    },
    # The tokens stay: micro-batches are alike in tokens; many short rows, then few long ones.
    "TOKENS_HELD": {
        "model": {"layers": 2, "width": 192, "heads": 6, "length": 1024},
        "pacing": {"kind": "linear", "start": 8, "duration": 80},
        "batch": {"rows": 4, "hold": "tokens"},
        "budget": {"tokens": 400_000},
    },
    # The length stays: a step has from one micro-batch to eight.
    "ROWS_PACED": {
        "model": {"layers": 6, "width": 64, "heads": 4, "length": 512},
        "pacing": {"kind": "linear", "of": "rows", "start": 2, "duration": 50},
        "batch": {"rows": 64},
        "budget": {"tokens": 800_000},
    },
}


def configuration(tables: Mapping[str, Any], store: Path, share: float) -> Config:
    """Return one training on the store, with a share of its budget."""
    budget = {"tokens": int(share * tables["budget"]["tokens"])}
    return build(
        {
            **tables,
            "data": {"path": str(store)},
            "optimizer": RATES,
            "budget": budget,
            "evaluation": {"every_tokens": budget["tokens"] // 2, "tokens": 20_000},
            "saving": {"every_steps": 0},
        }
    )


def compared(name: str, config: Config, out: Path) -> float:
    """Predict one training, carry it out, and print both; return predicted / measured seconds."""
    (forecast,) = forecasts({name: config}, None, lambda note: print(f"  {note}", file=sys.stderr))
    summary = train(config, out, quiet=True)
    assert (summary.steps, summary.tokens) == (forecast.plan.steps, forecast.plan.tokens)
    predicted, measured = forecast.duration, summary.seconds
    source = forecast.speed.source if forecast.speed else ""
    print(f"  {name}: {predicted:.1f} s predicted ({source}), {measured:.1f} s trained")
    report(f"PLAN_SECONDS_{name}", predicted / measured)
    return float(predicted / measured)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Predicted seconds against real ones.")
    parser.add_argument("--share", type=float, default=1.0, help="of the budgets, for a quick look")
    share = parser.parse_args().share
    print(f"{torch.get_num_threads()} threads")
    with real_store() as folder, tempfile.TemporaryDirectory() as runs:
        ratios = []
        for name, tables in TRAININGS.items():
            config = configuration(tables, folder / "store", share)
            ratios.append(compared(name, config, Path(runs) / name))
    report("PLAN_SECONDS", furthest(ratios))


if __name__ == "__main__":
    main()
