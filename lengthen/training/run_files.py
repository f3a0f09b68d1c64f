"""The files that a new run begins with."""

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch

from lengthen.checkpoint.read import State, Tensors
from lengthen.checkpoint.write import write_checkpoint
from lengthen.config.load import as_trained
from lengthen.config.schema import Config
from lengthen.data.tokenizer_files import TOKENIZER, TextTokenizer
from lengthen.distributed.subnormals import flushes_subnormals
from lengthen.run import directory as runlog
from lengthen.run.directory import RunPaths
from lengthen.run.environment import environment
from lengthen.util.disk import Disk


class Begun(NamedTuple):
    """What a run that does not begin with random weights has before its first step."""

    step: int
    tensors: Mapping[str, Tensors]
    state: State
    log: bytes  # the lines of metrics.jsonl


def write_run(
    disk: Disk,
    paths: RunPaths,
    config: Config,
    text: TextTokenizer,
    facts: Mapping[str, object],
    begun: Begun | None = None,
) -> None:
    """Write a new run over an earlier one; `facts` go into environment.json."""
    runlog.clear(disk, paths)
    tokenizer = text.files()
    recorded = environment(sys.argv) | {
        "flush_subnormals": flushes_subnormals(),
        "threads": torch.get_num_threads(),
        "tokenizer": hashlib.sha256(tokenizer[TOKENIZER]).hexdigest(),
        **facts,
    }
    disk.write_file(paths.environment, json.dumps(recorded, indent=1).encode())
    disk.sync_directory(paths.root)  # by its name a run that ends before it has begun is known
    for name, data in tokenizer.items():
        disk.write_file(paths.root / name, data)
    if begun:
        size = disk.write_file(paths.metrics, begun.log).size
        state = begun.state | {"metrics_bytes": size, "settings": as_trained(config)}
        write_checkpoint(disk, paths.checkpoints, begun.step, begun.tensors, state)
    # Whole or not at all, and last: `--resume auto` takes a directory with a configuration for a
    # run, and one without a checkpoint is started afresh, from other weights.
    disk.replace_file(paths.config, config.to_toml().encode())
