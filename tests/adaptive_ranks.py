"""One rank of a process group that paces adaptively: saves every state that it came to.

torchrun --standalone --nproc-per-node 2 -m tests.adaptive_ranks CONFIG.toml FOLDER
"""

import json
import sys
from pathlib import Path

from tests.core.test_adaptive import states
from tests.ranks import trainer_of


def main(file: str, folder: str) -> None:
    with trainer_of(file) as trainer:
        found = states(trainer)
        (Path(folder) / f"{trainer.context.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
