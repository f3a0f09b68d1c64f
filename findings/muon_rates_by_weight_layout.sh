#!/usr/bin/env bash
# torch 2.13.0 with transformers 5.24.0: torch.optim.Muon trains the matrices of a GPT2LMHeadModel at other
# rates than those of the same model made of nn.Linear, as a Llama is. By default a matrix with more outputs
# than inputs gets a rate that is larger by the root of their ratio, and Muon takes rows for outputs. GPT-2's
# Conv1D has its inputs in the rows. So the projection down, in each perceptron, gets twice the rate, and the
# projection up, which should have it, gets it once; the one to queries, keys and values lacks its 1.73. The
# shapes are valid both ways, and nothing is raised or warned about. adjust_lr_fn="match_rms_adamw", which goes by
# the longer side, trains both alike.
#
# Output seen (one layer of GPT-2, and the same weights as nn.Linear; the norm of each matrix' first update, of
# Conv1D over nn.Linear, and both models' losses before it and after 30):
#   original: c_attn 0.58, attention's c_proj 1.0, c_fc 0.5, perceptron's c_proj 2.0
#     4.868 and 4.868, then 3.853 and 3.766
#   match_rms_adamw: c_attn 1.0, attention's c_proj 1.0, c_fc 1.0, perceptron's c_proj 1.0
#     4.868 and 4.868, then 3.672 and 3.672
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 transformers==5.24.0
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" - <<'PYTHON'
import copy
import sys
import warnings

warnings.simplefilter("error")
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

torch.manual_seed(0)
sizes = {"n_layer": 1, "n_embd": 64, "n_head": 4, "vocab_size": 128, "n_positions": 32}
dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
own = GPT2LMHeadModel(GPT2Config(**sizes, **dropout, bos_token_id=0, eos_token_id=0))
linear = copy.deepcopy(own)
for name, module in list(linear.named_modules()):
    if isinstance(module, Conv1D):
        layer = torch.nn.Linear(module.nx, module.nf)
        layer.load_state_dict({"weight": module.weight.T.contiguous(), "bias": module.bias})
        linear.set_submodule(name, layer)
names = [name for name, module in own.named_modules() if isinstance(module, Conv1D)]
ids = torch.randint(128, (8, 32))


def trained(model, adjust):
    """Return the norm of each matrix' first update, and the losses before it and after 30."""
    model, norms = copy.deepcopy(model), []
    weights = [model.get_submodule(name).weight for name in names]
    before = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.Muon(weights, lr=0.02, weight_decay=0.0, adjust_lr_fn=adjust)
    losses = []
    for _ in range(31):
        loss = model(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        norms = norms or [(new - old).norm().item() for new, old in zip(weights, before, strict=True)]
    return norms, [round(losses[0], 3), round(losses[-1], 3)]


WORDS = "c_attn", "attention's c_proj", "c_fc", "perceptron's c_proj"
found = {}
for adjust in ("original", "match_rms_adamw"):
    (norms, ours), (others, theirs) = (trained(model, adjust) for model in (own, linear))
    ratios = [round(one / other, 2) for one, other in zip(norms, others, strict=True)]
    found[adjust] = ratios, abs(ours[1] - theirs[1])
    print(f"{adjust}: " + ", ".join(f"{word} {ratio}" for word, ratio in zip(WORDS, ratios, strict=True)))
    print("  {} and {}, then {} and {}".format(*(loss for pair in zip(ours, theirs, strict=True) for loss in pair)))
as_seen = (
    found["original"][0] == [0.58, 1.0, 0.5, 2.0]
    and found["original"][1] > 0.05
    and found["match_rms_adamw"][0] == [1.0] * 4
    and found["match_rms_adamw"][1] < 0.02
)
sys.exit(0 if as_seen else 1)
PYTHON
