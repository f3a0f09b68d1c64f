#!/usr/bin/env bash
# torch 2.13.0: two usual ways to fill a model that was made on the meta device part an embedding from the
# head that is tied to it, without an error or a warning. The first loss is right in both.
#
# 1. `to_empty` gives each of the two names memory of its own. Loading fills both alike, and training moves
#    them apart.
# 2. `load_state_dict(assign=True)` from a saved file makes two parameters that lie in the same memory. They
#    are equal for good, which hides it, and an optimizer updates that memory twice: AdamW's weight decay
#    counts twice, the two parts of the gradient are normalized apart, and clipping sees another norm.
#
# Output seen (an embedding, its tied head and a layer between; AdamW with rate 0.1 and decay 0.1):
#   loaded in place: 3 parameters, equal after a step True, of a weight without gradient 0.9900 is left
#   to_empty, then loaded: 4 parameters, equal after a step False, of a weight without gradient 0.9900 is left
#   loaded with assign: 4 parameters, equal after a step True, of a weight without gradient 0.9801 is left
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(8, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.layer(self.embedding(tokens)))


def stepped(model, gradient):
    """Take a step of AdamW, on a loss or on gradients of 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    tokens = torch.arange(8)
    cross_entropy(model(tokens), tokens.roll(1)).backward()
    if not gradient:
        optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    return model


def in_place(saved):
    model = Model()
    model.load_state_dict(saved())
    return model


def emptied(saved):
    with torch.device("meta"):
        model = Model()
    model.to_empty(device="cpu").load_state_dict(saved())
    return model


def assigned(saved):
    with torch.device("meta"):
        model = Model()
    model.load_state_dict(saved(), assign=True)
    return model


torch.manual_seed(0)
first = Model()
file = io.BytesIO()
torch.save(first.state_dict(), file)


def saved():
    file.seek(0)
    return torch.load(file)


WAYS = {
    "loaded in place": (in_place, 3, True, 0.99),
    "to_empty, then loaded": (emptied, 4, False, 0.99),
    "loaded with assign": (assigned, 4, True, 0.99**2),
}
right = True
for name, (load, *expected) in WAYS.items():
    count = len(list(load(saved).parameters()))
    trained = stepped(load(saved), gradient=True)
    equal = torch.equal(trained.embedding.weight, trained.head.weight)
    decayed = stepped(load(saved), gradient=False)
    left = (decayed.embedding.weight / first.embedding.weight).mean().item()
    print(
        f"{name}: {count} parameters, equal after a step {equal}, "
        f"of a weight without gradient {left:.4f} is left"
    )
    right &= [count, equal] == expected[:2] and abs(left - expected[2]) < 1e-4
sys.exit(0 if right else 1)
PYTHON
