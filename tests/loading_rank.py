"""One rank of a real process group: prints the newest good checkpoint of each run it is given.

RANK=0 WORLD_SIZE=2 ... python -m tests.loading_rank replicated|sharded CHECKPOINTS...
"""

import json
import sys
from pathlib import Path

from lengthen.checkpoint import read as checkpoint
from lengthen.config.schema import Run
from lengthen.distributed.launch import join_process_group
from lengthen.util.errors import CheckpointError


def newest(folder: str) -> tuple[int, list[str]]:
    try:
        loaded, notes = checkpoint.load_newest(Path(folder), context)
    except CheckpointError as error:
        return 0, [str(error)]
    return loaded.step, notes


if __name__ == "__main__":
    with join_process_group(Run(device="cpu", sharded=sys.argv[1] == "sharded")) as context:
        print(json.dumps([newest(folder) for folder in sys.argv[2:]]))
