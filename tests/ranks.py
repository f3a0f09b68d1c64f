"""One rank of a real process group: trains some steps and, on the first rank, saves what came out.

torchrun --standalone --nproc-per-node 3 -m tests.ranks CONFIG.toml STEPS OUT
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from lengthen.config.load import load
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.launch import join_process_group
from lengthen.run.records import to_json
from lengthen.training.trainer import Trainer


@contextmanager
def trainer_of(file: str) -> Iterator[Trainer]:
    """Give the trainer of a configuration on this rank, of one thread, while the ranks meet."""
    torch.set_num_threads(1)
    config, _ = load(file)
    store = open_store(config)
    config = with_store(config, store)
    with join_process_group(config.run) as context:
        size = config.batch.micro_tokens
        assert size != "auto"
        yield Trainer(config, store, context, size)


def main(file: str, steps: str, out: str) -> None:
    with trainer_of(file) as trainer:
        made = (trainer.step() for _ in range(int(steps)))
        records = [to_json(record) for record in made if record is not None]
        if trainer.context.is_rank_zero:
            folder = Path(out)
            folder.mkdir()
            save_file(dict(trainer.tensors()["optimizer"]), folder / "moments.safetensors")
            (folder / "records.json").write_text(json.dumps(records))
            (folder / "state.json").write_text(json.dumps(trainer.state_dict()["ledger"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
