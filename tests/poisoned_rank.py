"""One rank of two, where a gradient or a loss of the second rank alone is not finite.

torchrun --standalone --nproc-per-node 2 -m tests.poisoned_rank CONFIG.toml gradient|loss FOLDER
"""

import json
import sys
from pathlib import Path

import torch

from lengthen.run.records import to_json
from tests.ranks import trainer_of
from tests.training.test_trainer import kept, poisoned_step


def main(file: str, what: str, folder: str) -> None:
    with trainer_of(file) as trainer:
        for _ in range(3):
            trainer.step()
        before = kept(trainer)
        here = trainer.context.rank == 1
        record = poisoned_step(trainer, gradient=what == "gradient") if here else trainer.step()
        assert record is not None
        after = kept(trainer)
        equal = all(torch.equal(after[name], value) for name, value in before.items())
        again = trainer.step()
        assert again is not None
        found = {"record": to_json(record), "untouched": equal, "again": to_json(again)}
        (Path(folder) / f"{trainer.context.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
