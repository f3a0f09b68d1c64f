#!/usr/bin/env bash
# torch 2.13.0: a loop that enters torch.autocast once, around all its steps, and not around each
# forward pass. Nothing of it is raised or warned about.
#
# 1. The casts of the weights are kept until the outermost context ends. The optimizer updates the
#    weights, and each forward pass computes with those of the first: its loss never moves, and every
#    step adds the gradient of the first step to the weights.
# 2. A context of its own around each step, as a library has, changes nothing as long as an outer one
#    is open, be that disabled.
# 3. load_state_dict does not reach the forward pass either: a model that was evaluated before gives
#    the outputs of the weights that it had.
# cache_enabled=False on the outermost context, or torch.clear_autocast_cache() after each update, gives
# the losses of a context for each pass.
#
# Output seen (bfloat16 on a CPU, four steps of SGD on a linear layer):
#   a context for each pass: [1.1311, 0.9039, 0.7692, 0.6823]
#   one around all: [1.1311, 1.1311, 1.1311, 1.1311], the weights moved by 3.0 times the first update
#   one inside another: [1.1311, 1.1311, 1.1311, 1.1311], inside a disabled one the same
#   without the cache, and cleared: [1.1311, 0.9039, 0.7692, 0.6823]
#   weights of zero loaded: outputs unchanged
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from contextlib import nullcontext

import torch


def context(**given):
    return torch.autocast("cpu", dtype=torch.bfloat16, **given)


def trained(outer, inner, clear=False):
    """Return the losses of four steps, and by how many first updates the next three moved."""
    torch.manual_seed(0)
    model, inputs, targets = torch.nn.Linear(8, 8), torch.randn(16, 8), torch.randn(16, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses, weights = [], [model.weight.detach().clone()]
    with outer:
        for _ in range(4):
            with inner():
                loss = (model(inputs).float() - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if clear:
                torch.clear_autocast_cache()
            losses.append(round(loss.item(), 4))
            weights.append(model.weight.detach().clone())
    first, later = weights[1] - weights[0], weights[4] - weights[1]
    return losses, round((later.norm() / first.norm()).item(), 3)


falling, _ = trained(nullcontext(), context)
around_all, moved = trained(context(), nullcontext)
nested, _ = trained(context(), context)
in_disabled, _ = trained(context(enabled=False), context)
uncached, _ = trained(context(cache_enabled=False), nullcontext)
cleared, _ = trained(context(), nullcontext, clear=True)

model, inputs = torch.nn.Linear(8, 8), torch.randn(16, 8)
with context():
    before = model(inputs)
    model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    after = model(inputs)

print("a context for each pass:", falling)
print("one around all:", around_all, "weights moved by", moved, "first updates")
print("one inside another:", nested, "inside a disabled one:", in_disabled)
print("without the cache:", uncached, "cleared:", cleared)
print("weights of zero loaded: outputs unchanged:", torch.equal(before, after))
still = [falling[0]] * 4
as_seen = (
    falling[3] < 0.7 * falling[0]
    and around_all == nested == in_disabled == still
    and abs(moved - 3.0) < 0.01
    and uncached == cleared == falling
    and torch.equal(before, after)
)
sys.exit(0 if as_seen else 1)
PYTHON
