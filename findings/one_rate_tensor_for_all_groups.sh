#!/usr/bin/env bash
# torch 2.13.0: an optimizer whose learning rate is a tensor, as a compiled step wants it, puts the same
# tensor in all of its parameter groups. A scheduler writes into it, group by group, so that all groups
# train at the rate of the last. A loop that scales the rates in place scales the one tensor once for each
# group. The same code is right with a float. Nothing is raised or warned about.
#
# Output seen (two groups; a LambdaLR with a factor for each, and a loop that halves each group's rate):
#   float: factors 1 and 0.1 give [1.0, 0.1], halved from 1.0 [0.5, 0.5]
#   tensor: factors 1 and 0.1 give [0.1, 0.1], halved from 1.0 [0.25, 0.25]
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.optim.lr_scheduler import LambdaLR


def adamw(rate):
    parameters = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    return torch.optim.AdamW([{"params": [parameter]} for parameter in parameters], lr=rate)


def rates(optimizer):
    return [round(float(group["lr"]), 4) for group in optimizer.param_groups]


def scheduled(rate):
    optimizer = adamw(rate)
    scheduler = LambdaLR(optimizer, [lambda _: 1.0, lambda _: 0.1])
    optimizer.step()
    scheduler.step()
    return rates(optimizer)


def halved(rate):
    optimizer = adamw(rate)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    return rates(optimizer)


found = [(scheduled(rate()), halved(rate())) for rate in (lambda: 1.0, lambda: torch.tensor(1.0))]
for name, (factors, halves) in zip(("float", "tensor"), found):
    print(f"{name}: factors 1 and 0.1 give {factors}, halved from 1.0 {halves}")
same = found == [([1.0, 0.1], [0.5, 0.5]), ([0.1, 0.1], [0.25, 0.25])]
sys.exit(0 if same else 1)
PYTHON
