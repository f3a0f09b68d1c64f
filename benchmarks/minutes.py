"""The minutes that a training takes, beside `budget.minutes`, for three shapes.

    python -m benchmarks.minutes                    about seven minutes on two cores, alone
    python -m benchmarks.minutes --minutes 0.2      a quick look

The trainings are those of `benchmarks.plan`, their warmup 30 % of the tokens. The figure is minutes
of training / budget.minutes; beside it stands all that the call took, with the steps tried at its
start, evaluations, probes and saves.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import furthest, report
from benchmarks.plan import TRAININGS, configuration
from benchmarks.step import real_store
from lengthen.training.start import train


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Minutes of training against budget.minutes.")
    parser.add_argument("--minutes", type=float, default=2.0, help="of each training")
    minutes = parser.parse_args().minutes
    print(f"{torch.get_num_threads()} threads")
    settings = {"budget.minutes": minutes, "pacing.duration": "30%"}
    with real_store() as folder, tempfile.TemporaryDirectory() as runs:
        ratios = []
        for name, tables in TRAININGS.items():
            config = configuration(tables, folder / "store", 1.0)
            began = time.monotonic()
            summary = train(config, Path(runs) / name, settings=settings, quiet=True)
            whole = (time.monotonic() - began) / 60
            ratios.append(summary.seconds / 60 / minutes)
            print(f"  {name}: {summary.seconds / 60:.2f} minutes of {minutes}, {whole:.2f} in all")
            report(f"MINUTES_{name}", ratios[-1])
    report("MINUTES", furthest(ratios))


if __name__ == "__main__":
    main()
