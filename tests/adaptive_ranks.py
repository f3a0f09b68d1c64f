"""One rank of a process group that paces adaptively: saves every state that it came to.

torchrun --standalone --nproc-per-node 2 -m tests.adaptive_ranks CONFIG.toml FOLDER
"""

import json
import sys
from pathlib import Path

import torch

from lengthen.bind import open_store, with_store
from lengthen.devices import placed
from lengthen.settings import load
from lengthen.trainer import Trainer
from tests.test_adaptive import states


def main(file: str, folder: str) -> None:
    torch.set_num_threads(1)
    config, _ = load(file)
    store = open_store(config)
    config = with_store(config, store)
    with placed(config.run) as place:
        size = config.batch.micro_tokens
        assert size != "auto"
        found = states(Trainer(config, store, place, size))
        (Path(folder) / f"{place.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
