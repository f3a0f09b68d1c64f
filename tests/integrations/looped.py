"""A plain loop with a checkpoint of its own, in float64, in any number of processes."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lengthen.data.store import Store
from lengthen.integrations.plain import BatchStream, RunLog
from tests.integrations.reference import (
    COUNT,
    PLAN,
    Rows,
    config_of,
    mean_loss,
    model_of,
    optimizer_of,
    validation_loss,
)


def rank(store: Path, out: Path, work: str) -> int:
    """Train on this rank: the whole budget, or to two steps after a save, or from there.

    "sharded" is the whole budget with FSDP2, without an evaluation and weights.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    number, world_size = dist.get_rank(), dist.get_world_size()
    config = config_of(store)
    own = model_of(config)
    sharded = work == "sharded"
    model = _sharded(own, world_size) if sharded else DistributedDataParallel(own)
    optimizer = optimizer_of(own, config)
    cut = {"gradient_accumulation_steps": COUNT, "rank": number, "world_size": world_size}
    stream = BatchStream(Store.open(store).train, PLAN, **cut)
    scheduler = PLAN.lr_scheduler(optimizer)
    parts: dict[str, Any] = {"model": own, "optimizer": optimizer}
    parts |= {"scheduler": scheduler, "stream": stream}
    saved: dict[str, Any] = {}
    if work == "resumed":
        saved = torch.load(out / "checkpoint.pt")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    log = RunLog(out / "run", PLAN, saved=saved.get("log")) if number == 0 else None
    seen: list[Rows] = []
    for step, micro_batches in stream:
        total = torch.zeros((), dtype=torch.float64)
        for inputs, targets, _, share in micro_batches:
            seen.append((inputs.tolist(), targets.tolist()) if share else ([], []))
            loss = share * mean_loss(model(inputs), targets)
            torch.autograd.backward(loss * world_size)
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        optimizer.step()
        dist.all_reduce(total)
        if log:
            log.step(step, loss=total, grad_norm=norm, optimizer=optimizer)
        optimizer.zero_grad()
        scheduler.step()
        if work == "killed" and step.number == 6 and log:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**states, "log": log.state_dict()}, out / "checkpoint.pt")
        if work == "killed" and step.number == 8:
            return 0
    if log:
        if not sharded:
            log.evaluation(validation_loss(own, store))
        log.finish()
    if sharded:
        return 0
    (out / f"{work}-{number}.json").write_text(json.dumps(seen))
    torch.save(own.state_dict(), out / f"{work}-{number}.pt")
    return 0


def _sharded(model: nn.Module, world_size: int) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=init_device_mesh("cpu", (world_size,)))
    return model
