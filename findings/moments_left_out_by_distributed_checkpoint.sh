#!/usr/bin/env bash
# torch 2.13.0: torch.distributed.checkpoint restores a fresh optimizer's settings and not its moments. `load`
# fills what the given state dict has. That of an optimizer that was just built has its groups and no state
# yet, so the saved learning rate comes back and the moments stay in the file: the run continues at the rate
# of its last step, with an Adam that is at its first. The same holds where `load` is given the optimizer
# itself. A key that the file lacks is an error; one that nobody asked for is passed over, and no warning says
# so. The same lines with torch.save and torch.load resume exactly. So does `get_state_dict`, which makes the
# moments first, by a step with a rate of 0.
#
# Output seen (10 steps of AdamW, saved, the rate halved before; 3 more steps against the unbroken run's):
#   torch.load: rate 0.05, from step 10, same weights True
#   dcp.load of state dicts: rate 0.05, from step 0, same weights False
#   dcp.load of model and optimizer: rate 0.05, from step 0, same weights False
#   dcp.load after get_state_dict: rate 0.05, from step 10, same weights True
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

SAVED, STEPS = 10, 13
data = torch.randn(STEPS, 8, 4, generator=torch.Generator().manual_seed(1))
whole, parts = f"{sys.argv[1]}/whole", f"{sys.argv[1]}/parts"


def built(rate=0.1):
    model = torch.nn.Linear(4, 4)
    return model, torch.optim.AdamW(model.parameters(), lr=rate)


def state_dicts(model, optimizer):
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def trained(model, optimizer, first, last):
    for rows in data[first:last]:
        (model(rows) - rows.flip(1)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def into(model, optimizer, state):
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def by_torch(model, optimizer):
    into(model, optimizer, torch.load(whole))


def by_state_dicts(model, optimizer):
    state = state_dicts(model, optimizer)
    dcp.load(state, checkpoint_id=parts)
    into(model, optimizer, state)


def by_objects(model, optimizer):
    dcp.load({"model": model, "optimizer": optimizer}, checkpoint_id=parts)


def by_names(model, optimizer):
    kinds = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer)))
    dcp.load(kinds, checkpoint_id=f"{parts}-named")
    set_state_dict(
        model, optimizer, model_state_dict=kinds["model"], optim_state_dict=kinds["optimizer"]
    )


torch.manual_seed(0)
model, optimizer = built()
trained(model, optimizer, 0, SAVED)
optimizer.param_groups[0]["lr"] = 0.05
torch.save(state_dicts(model, optimizer), whole)
dcp.save(state_dicts(model, optimizer), checkpoint_id=parts)
dcp.save(
    dict(zip(("model", "optimizer"), get_state_dict(model, optimizer))),
    checkpoint_id=f"{parts}-named",
)
trained(model, optimizer, SAVED, STEPS)
WAYS = {
    "torch.load": (by_torch, SAVED),
    "dcp.load of state dicts": (by_state_dicts, 0),
    "dcp.load of model and optimizer": (by_objects, 0),
    "dcp.load after get_state_dict": (by_names, SAVED),
}
right = True
for name, (load, expected) in WAYS.items():
    other, resumed = built()
    load(other, resumed)
    rate = float(resumed.param_groups[0]["lr"])
    begun = int(resumed.state[other.weight].get("step", 0))
    trained(other, resumed, SAVED, STEPS)
    same = torch.equal(other.weight, model.weight)
    print(f"{name}: rate {rate:g}, from step {begun}, same weights {same}")
    right &= (rate, begun, same) == (0.05, expected, expected == SAVED)
sys.exit(0 if right else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder" 2> "$folder/log" \
    || { rc=$?; tail -3 "$folder/log"; exit $rc; }
