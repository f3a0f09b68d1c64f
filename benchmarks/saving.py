"""Saving: how long training stands still for a checkpoint, on the spot and from a copy.

    python -m benchmarks.saving                 100 million parameters; some minutes, 2.4 GB of disk
    python -m benchmarks.saving --layers 2 --rounds 3

Weights and both moments in float32, 1.2 GB, are saved in turn on the spot and in the background.
What blocks in the background is the copy; the first one, whose memory is new, is reported apart.
Meanwhile nothing trains, so what the writing thread takes from a step is not in it.
"""

import argparse
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.measure import ROUNDS, figure, report
from lengthen.checkpoint.manager import CheckpointManager
from lengthen.checkpoint.read import Tensors
from lengthen.config.model import Model
from lengthen.distributed.context import DistributedContext
from lengthen.model.gpt import GPT
from lengthen.util.disk import Disk


def state_of(layers: int) -> dict[str, Tensors]:
    model = GPT(Model(layers=layers, width=768, heads=12, length=1024, vocabulary=18_000))
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moments = {
        f"{name}.{key}": torch.rand_like(weight)
        for name, weight in weights.items()
        for key in ("exp_avg", "exp_avg_sq")
    }
    return {"model": weights, "optimizer": moments}


class Measured:
    """One manager, saving the same tensors under ever new steps."""

    def __init__(self, saves: CheckpointManager, tensors: dict[str, Tensors]) -> None:
        self.saves, self.tensors, self.step = saves, tensors, 0

    def on_the_spot(self) -> float:
        """Return the seconds of a save that training waits for."""
        self.step += 1
        began = time.perf_counter()
        self.saves.write(self.step, self.tensors, {})
        return self._taken(began)

    def in_the_background(self) -> float:
        """Return the seconds that training waits for the copy."""
        self.step += 1
        began = time.perf_counter()
        self.saves.write(self.step, self.tensors, {}, wait=False)
        return self._taken(began)

    def _taken(self, began: float) -> float:
        taken = time.perf_counter() - began
        self.saves.finish(wait=True)
        self.saves.delete_old()
        return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    tensors = state_of(options.layers)
    report("PARAMETERS", sum(weight.numel() for weight in tensors["model"].values()))
    context = DistributedContext(torch.device("cpu"))
    with (
        tempfile.TemporaryDirectory(dir=".") as folder,
        closing(
            CheckpointManager(Disk(), Path(folder) / "c", 1, context, asynchronous=True)
        ) as saves,
    ):
        measured = Measured(saves, tensors)
        report("SAVING_FIRST_COPY_SECONDS", measured.in_the_background())
        pairs = [
            (measured.in_the_background(), measured.on_the_spot()) for _ in range(options.rounds)
        ]
    report("SAVING_ON_THE_SPOT_SECONDS", figure([on_the_spot for _, on_the_spot in pairs]))
    blocks = figure([copying / on_the_spot for copying, on_the_spot in pairs])
    print(f"the copy blocks for {blocks} of the time of a save on the spot")
    report("SAVING_BLOCKS", blocks)


if __name__ == "__main__":
    main()
