#!/usr/bin/env bash
# accelerate 1.15.0: a prepared scheduler steps once for each process at every update, however it was made.
# That is right where its length is that of a loader before it was prepared, and for nothing else. A length in
# updates, such as that of the prepared loader or a budget of steps, is right on one process and too short
# on more. Nothing is raised or warned about, and the loss goes down all the same.
#
# 1. On two processes a linear schedule reaches zero after half of the updates, and the other half trains
#    nothing. A cosine of torch goes down by then and up again.
# 2. With the length times the processes it is right, until a run resumes on another number of them: its
#    state counts steps of processes. On one process the rest of the training has a rate of zero.
#
# Output seen (8 updates; the rate of each):
#   linear, 1 process: [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
#   linear, 2 processes: [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0]
#   cosine, 1 process: [1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038]
#   cosine, 2 processes: [1.0, 0.854, 0.5, 0.146, 0.0, 0.146, 0.5, 0.854]
#   saved by 2 after 4 updates: 2 go on with [0.5, 0.375, 0.25, 0.125], 1 with [0.5, 0.0, 0.0, 0.0]
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator, debug_launcher
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.utils.data import DataLoader

warnings.simplefilter("error")
FOLDER, UPDATES = Path(sys.argv[1]), 8


def linear(updates):
    return lambda optimizer: LambdaLR(optimizer, lambda step: max(0.0, 1 - step / updates))


def cosine(updates):
    return lambda optimizer: CosineAnnealingLR(optimizer, updates)


def rates(host, make, save=False, resume=False):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    loader = DataLoader(torch.ones(UPDATES * host.num_processes, 1))
    scheduler = make(optimizer)
    model, optimizer, loader, scheduler = host.prepare(model, optimizer, loader, scheduler)
    if resume:
        host.load_state(FOLDER / "half")
        loader = host.skip_first_batches(loader, UPDATES // 2)
    used = []
    for batch in loader:
        used.append(round(optimizer.param_groups[0]["lr"], 3))
        host.backward(model(batch).sum())
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if save and len(used) == UPDATES // 2:
            host.save_state(FOLDER / "half")
    host.free_memory()
    return used


def look():
    host = Accelerator(cpu=True)
    count = host.num_processes
    found = {"linear": rates(host, linear(UPDATES)), "cosine": rates(host, cosine(UPDATES))}
    if count > 1:
        rates(host, linear(UPDATES * count), save=True)
    found["resumed"] = rates(host, linear(UPDATES * count), resume=True)
    if host.is_main_process:
        (FOLDER / f"{count}.json").write_text(json.dumps(found))


debug_launcher(look, num_processes=2)
look()
one, two = (json.loads((FOLDER / f"{count}.json").read_text()) for count in (1, 2))
for name in ("linear", "cosine"):
    print(f"{name}, 1 process: {one[name]}\n{name}, 2 processes: {two[name]}")
kept, lost = two["resumed"], one["resumed"]
print(f"saved by 2 after 4 updates: 2 go on with {kept}, 1 with {lost}")
as_seen = (
    two["linear"][UPDATES // 2 :] == [0.0] * 4
    and two["cosine"][-1] > 0.8
    and kept == one["linear"][UPDATES // 2 :]
    and lost == [0.5, 0.0, 0.0, 0.0]
)
sys.exit(0 if as_seen else 1)
PYTHON
