#!/usr/bin/env bash
# torch 2.13.0: a training that resumes from the states of its optimizer and of its learning rate
# scheduler, both saved at the same step. Both orders below are accepted without a warning; the page of
# load_state_dict asks for both states, and says nothing of an order.
#
# 1. A scheduler sets the rates of step 0 where it is made, and its load_state_dict does not set those
#    of its state. With one that is made after the optimizer was loaded, the first update after the
#    resume has the first rate of the training: LambdaLR that of its peak, or none during a warm-up.
# 2. Schedulers that compute a rate from the rate before never come back: with SequentialLR of a linear
#    warm-up and a cosine all the rest is trained at a tenth, which was the warm-up's first share.
# 3. CosineAnnealingLR alone, which begins at the optimizer's own rate, shows neither.
# With the scheduler made before either state is loaded all rates are right.
#
# Output seen (rates of the last four of ten steps):
#   LambdaLR: unbroken [0.4, 0.3, 0.2, 0.1], made last [1.0, 0.3, 0.2, 0.1]
#   SequentialLR: unbroken [0.6113, 0.3887, 0.1883, 0.0495], made last [0.1, 0.0636, 0.0308, 0.0081]
#   OneCycleLR: unbroken [0.3887, 0.1883, 0.0495, 0.0], made last [0.04, 0.1883, 0.0495, 0.0]
#   CosineAnnealingLR: unbroken and made last [0.3455, 0.2061, 0.0955, 0.0245]
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import sys
import warnings

import torch
from torch.optim import lr_scheduler as rates

warnings.simplefilter("error")
STEPS, SAVED = 10, 6
KINDS = {
    "LambdaLR": lambda optimizer: rates.LambdaLR(optimizer, lambda step: 1 - step / STEPS),
    "SequentialLR": lambda optimizer: rates.SequentialLR(
        optimizer,
        [rates.LinearLR(optimizer, 0.1, total_iters=3), rates.CosineAnnealingLR(optimizer, 7)],
        milestones=[3],
    ),
    "OneCycleLR": lambda optimizer: rates.OneCycleLR(optimizer, 1.0, total_steps=STEPS),
    "CosineAnnealingLR": lambda optimizer: rates.CosineAnnealingLR(optimizer, STEPS),
}


def new():
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=1.0)


def trained(optimizer, scheduler, first):
    """Return the rate of each update from `first` on, and the two states before step SAVED."""
    used, states = [], None
    for step in range(first, STEPS):
        if step == SAVED:
            states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
        used.append(round(optimizer.param_groups[0]["lr"], 4))
        optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
        optimizer.step()
        if step + 1 < STEPS:
            scheduler.step()
    return used, states


def resumed(make, states, made_last):
    optimizer = new()
    if made_last:
        optimizer.load_state_dict(copy.deepcopy(states[0]))
        scheduler = make(optimizer)
    else:
        scheduler = make(optimizer)
        optimizer.load_state_dict(copy.deepcopy(states[0]))
    scheduler.load_state_dict(copy.deepcopy(states[1]))
    return trained(optimizer, scheduler, SAVED)[0]


as_seen = True
for name, make in KINDS.items():
    optimizer = new()
    unbroken, states = trained(optimizer, make(optimizer), 0)
    first, last = (resumed(make, states, made_last) for made_last in (False, True))
    print(f"{name}: unbroken {unbroken[SAVED:]}, made first {first}, made last {last}")
    as_seen &= first == unbroken[SAVED:]
    if name == "CosineAnnealingLR":
        as_seen &= last == first
    elif name == "SequentialLR":
        as_seen &= all(one < 0.2 * other for one, other in zip(last, first))
    else:
        as_seen &= last[0] == unbroken[0] != first[0] and last[1:] == first[1:]
sys.exit(0 if as_seen else 1)
PYTHON
