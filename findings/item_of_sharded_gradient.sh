#!/usr/bin/env bash
# torch 2.13.0: a number read out of a gradient or weight that FSDP2 (fully_shard) has sharded is that of
# the process's own part. `norm`, `sum`, `mean`, `max` and `all` put off joining the parts, and `item()`,
# `float()` and `if` take what the process has. `std` joins them, and so do a result that one computes on
# with (the square of a norm) and clip_grad_norm_. So a loop that is right with one process, or with DDP, logs
# and decides something else in each process. Nothing is raised or warned about.
#
# 1. Clipping each gradient by its own norm scales each part by a factor of its own, which changes the
#    direction of the gradient.
# 2. A loop that leaves out an update whose gradient is not finite leaves it out where the NaN lies. The other
#    processes update their rows of the same weight.
# `full_tensor()` before `item()` gives the number of the whole.
#
# Output seen (two processes, a gradient of four rows):
#   norm: whole 2.5276, read by the processes 0.3983 and 2.496
#   sum: whole 1.155, read by the processes -0.0904 and 1.2454
#   mean: whole 0.0962, read by the processes -0.0151 and 0.2076
#   max: whole 2.1188, read by the processes 0.2768 and 2.1188
#   std: whole 0.7554, read by the processes 0.7554 and 0.7554
#   norm squared: whole 6.3888, read by the processes 6.3888 and 6.3888
#   clip_grad_norm_: whole 2.5276, read by the processes 2.5276 and 2.5276
#   clipped to 0.1 by its norm: a norm of 0.1414, at a cosine of 0.8097 to the gradient
#   a NaN in the third row: rows updated [True, True, False, False]
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import json
import math
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

warnings.simplefilter("error")
READ = {
    "norm": lambda gradient: gradient.norm(),
    "sum": lambda gradient: gradient.sum(),
    "mean": lambda gradient: gradient.mean(),
    "max": lambda gradient: gradient.abs().max(),
    "std": lambda gradient: gradient.std(),
    "norm squared": lambda gradient: gradient.norm() ** 2,
    "clip_grad_norm_": lambda gradient: total_norm(gradient),
}


def total_norm(gradient):
    weight = torch.nn.Parameter(torch.zeros_like(gradient))
    weight.grad = gradient
    return torch.nn.utils.clip_grad_norm_(weight, math.inf)


def layer():
    """Return a layer of four rows; both processes have the same batch."""
    torch.manual_seed(0)
    made = fully_shard(torch.nn.Linear(3, 4, bias=False), mesh=init_device_mesh("cpu", (2,)))
    inputs, scale = torch.randn(5, 3), torch.tensor([1.0, 1.0, 3.0, 3.0])
    (made(inputs) * scale).pow(2).mean().backward()
    return made.weight


def look(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    weight = layer()
    whole, found = weight.grad.full_tensor(), {}
    for name, read in READ.items():
        found[name] = [round(read(one).item(), 4) for one in (whole, weight.grad)]

    weight.grad.mul_(0.1 / float(weight.grad.norm()))
    clipped = weight.grad.full_tensor()
    cosine = torch.cosine_similarity(clipped.flatten(), whole.flatten(), 0)
    found["clipped"] = [round(one.item(), 4) for one in (clipped.norm(), cosine)]

    weight = layer()
    before = weight.full_tensor().detach().clone()
    if rank == 1:
        weight.grad.to_local()[0, 0] = math.nan
    if torch.isfinite(weight.grad).all():
        torch.optim.SGD([weight], 0.1).step()
    found["moved"] = (weight.full_tensor() != before).any(1).tolist()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(look, (sys.argv[1],), nprocs=2)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder"
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

one, two = (json.loads((Path(sys.argv[1]) / f"{rank}.json").read_text()) for rank in (0, 1))
joined, apart = ("std", "norm squared", "clip_grad_norm_"), ("norm", "sum", "mean", "max")
for name in (*apart, *joined):
    (whole, first), (_, second) = one[name], two[name]
    print(f"{name}: whole {whole}, read by the processes {first} and {second}")
(norm, cosine), moved = one["clipped"], one["moved"]
print(f"clipped to 0.1 by its norm: a norm of {norm}, at a cosine of {cosine} to the gradient")
print(f"a NaN in the third row: rows updated {moved}")
as_seen = (
    all(one[name][0] == one[name][1] == two[name][1] for name in joined)
    and all(one[name][1] != two[name][1] for name in apart)
    and norm > 0.14
    and cosine < 0.9
    and moved == [True, True, False, False]
)
sys.exit(0 if as_seen else 1)
PYTHON
