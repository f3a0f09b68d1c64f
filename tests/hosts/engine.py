"""A rank of the example for DeepSpeed, around our own model as a stranger has it, in float32."""

import json
import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lengthen.data.store import Store
from tests.integrations.reference import PLAN, Rows, config_of, model_of, optimizer_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "deepspeed_loop.py"


def example() -> Any:
    spec = spec_from_file_location("deepspeed_loop", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := module_from_spec(spec))
    return module


deepspeed_loop = example()  # here, before ranks are forked


def rank(store: Path, out: Path, last: int | None) -> int:
    """Train this rank to the end, or until it is stopped after `last` steps with a checkpoint."""
    torch.set_num_threads(1)
    config = config_of(store)
    model = model_of(config).float()
    optimizer = optimizer_of(model, config)
    seen: list[Rows] = []

    def look(_: nn.Module, given: tuple[torch.Tensor]) -> None:
        if not torch.is_grad_enabled():
            return  # an evaluation
        seen.append((given[0].tolist() if bool(given[0].any()) else [], []))
        if last is not None and len(seen) > last * deepspeed_loop.COUNT:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(look)
    deepspeed_loop.SAVE_EVERY = 6
    try:
        deepspeed_loop.train(model, optimizer, Store.open(store), PLAN, out / "run")
    except KeyboardInterrupt:
        return 0
    number = os.environ.get("RANK", "0")
    (out / f"rank-{number}.json").write_text(json.dumps(seen))
    torch.save(model.state_dict(), out / f"rank-{number}.pt")
    return 0
