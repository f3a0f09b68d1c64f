"""Length warmup around a DeepSpeed engine with ZeRO, in place of the curriculum that it removed.

torchrun --nproc-per-node 2 examples/deepspeed_loop.py STORE RUN [TOKENS]

STORE is what `lengthen prepare` wrote. Where RUN has a checkpoint, the same command continues.
"""

import os
import sys
from pathlib import Path

import deepspeed
import torch
from torch import nn

import lengthen

COUNT = 2  # micro-batches of a step in each process
SAVE_EVERY = 50  # steps
VALID_ROWS = 8
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only counts with it: our stream cuts the rows
    "gradient_accumulation_steps": COUNT,
    "gradient_clipping": 1.0,
    "zero_optimization": {"stage": 1},
    "zero_allow_untested_optimizer": True,
}


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    store: lengthen.Store,
    plan: lengthen.DataPlan,
    out: Path,
) -> None:
    """Train a model that returns logits; every process calls it."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, lr_scheduler=plan.lr_scheduler, config=CONFIG
    )
    cut = {"gradient_accumulation_steps": COUNT, "rank": rank, "world_size": world_size}
    stream = lengthen.BatchStream(store.train, plan, **cut)
    place, saved = out / "engine", {}
    if (place / "latest").exists():
        _, saved = engine.load_checkpoint(str(place))
        stream.load_state_dict(saved["stream"])
    log = lengthen.RunLog(out, plan, store=store, saved=saved.get("log")) if rank == 0 else None
    for step, micro_batches in stream:
        rate, total = optimizer.param_groups[0]["lr"], torch.zeros((), device=engine.device)
        for inputs, targets, _, share in micro_batches:
            logits = engine(inputs.to(engine.device)).flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, targets.to(engine.device).flatten())
            # The engine divides by its micro-batches, and ZeRO averages over processes.
            engine.backward(share * COUNT * world_size * loss)
            engine.step()
            total += share * loss.detach()
        torch.distributed.all_reduce(total)
        if log:  # whose second moment is this process's part alone
            norm = engine.get_global_grad_norm()
            log.step(step, loss=total, grad_norm=norm, optimizer=optimizer, rate=rate)
        if step.number % SAVE_EVERY == 0:
            state = {"stream": stream.state_dict(), "log": log.state_dict() if log else None}
            engine.save_checkpoint(str(place), client_state=state)
    if log:
        rows = torch.from_numpy(store.valid[: VALID_ROWS * plan.length + 1].astype("int64"))
        inputs, targets = (part.view(-1, plan.length) for part in (rows[:-1], rows[1:]))
        with torch.no_grad():
            logits = engine.module(inputs.to(engine.device)).flatten(0, 1)
        log.evaluation(nn.functional.cross_entropy(logits, targets.to(logits.device).flatten()))
        log.finish()


if __name__ == "__main__":
    source, run, *more = sys.argv[1:]
    store = lengthen.Store.open(source)
    budget = int(more[0]) if more else 400_000
    pacing = lengthen.Linear(start=8, end=128, duration=100)
    plan = lengthen.DataPlan(pacing=pacing, rows=32, budget=budget, warmup_steps=20)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(store.vocabulary, 64), nn.Linear(64, store.vocabulary))
    train(model, torch.optim.AdamW(model.parameters(), lr=3e-3), store, plan, Path(run))
