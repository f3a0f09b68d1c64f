"""The time that `plan` says a warmup saves, beside two runs that are then timed.

    python -m benchmarks.warmup_saving                 about six minutes on two cores, alone
    python -m benchmarks.warmup_saving --share 0.1     a quick look

One model at constant tokens, whose attention is a large part of its arithmetic, is trained with a
warmup and with full length throughout, on as many tokens. The figure is predicted / measured share
of the time of full length that the warmup saves; the seconds are of training alone, as `plan` has
them.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import report
from benchmarks.plan import configuration
from benchmarks.step import real_store
from lengthen.planning.forecast import forecasts
from lengthen.training.start import train

WARMUP: dict[str, Any] = {
    "model": {"layers": 4, "width": 128, "heads": 4, "length": 2048},
    "pacing": {"kind": "linear", "start": 64, "duration": "80%"},
    "batch": {"rows": 2, "hold": "tokens"},
    "budget": {"tokens": 1_000_000},
}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Predicted saving of a warmup against a real one.")
    parser.add_argument("--share", type=float, default=1.0, help="of the budget, for a quick look")
    share = parser.parse_args().share
    print(f"{torch.get_num_threads()} threads")
    tables = {"warmup": WARMUP, "full length": {**WARMUP, "pacing": {"kind": "constant"}}}
    with real_store() as folder, tempfile.TemporaryDirectory() as runs:
        configs = {
            name: configuration(each, folder / "store", share) for name, each in tables.items()
        }
        planned, _ = forecasts(configs, None, print)
        print(f"  plan: {planned.saving}")
        seconds = {
            name: train(config, Path(runs) / name, quiet=True).seconds
            for name, config in configs.items()
        }
    predicted = planned.time_saved
    measured = 1 - seconds["warmup"] / seconds["full length"]
    print(f"  {predicted:.1%} of the time predicted, {measured:.1%} measured: {seconds}")
    report("WARMUP_SAVING", predicted / measured)


if __name__ == "__main__":
    main()
