#!/usr/bin/env bash
# transformers 5.24.0: whether packed documents see each other is decided by `use_cache`, which a config
# has on. DataCollatorWithFlattening joins documents in one row and restarts position_ids at each. A model
# builds the mask between documents from these where it is given neither an attention mask nor a cache. In
# a loop of one's own it makes itself a cache first, in training mode too, and each document attends to all
# before it. Building a Trainer sets `use_cache` off in the model's config: from then on the same call has
# the mask. Nothing is raised or warned about.
#
# An attention mask of ones, which masks nothing, takes the mask between documents away as well.
#
# Output seen (does the second document's output change with the tokens of the first?):
#   LlamaForCausalLM: as it is True, once a Trainer was built False, with a mask of ones True
#   GPT2LMHeadModel: as it is True, once a Trainer was built False, with a mask of ones True
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 accelerate==1.15.0 transformers==5.24.0
cat > "$folder/look.py" <<'PYTHON'
import sys

import torch
from transformers import (
    DataCollatorWithFlattening, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer,
    TrainingArguments,
)

COMMON = {"vocab_size": 32, "bos_token_id": 0, "eos_token_id": 0}
MODELS = {
    LlamaForCausalLM: LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, **COMMON,
    ),
    GPT2LMHeadModel: GPT2Config(
        n_positions=64, n_embd=16, n_layer=1, n_head=2,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **COMMON,
    ),
}
LENGTH = 12
documents = torch.randint(1, 32, (3, LENGTH), generator=torch.Generator().manual_seed(1)).tolist()


@torch.no_grad()
def seen(model, **more):
    """Return whether the output at the last document depends on which document is before it."""
    outputs = []
    for first in documents[:2]:
        row = DataCollatorWithFlattening()([{"input_ids": first}, {"input_ids": documents[2]}])
        outputs.append(model(**row, **more).logits[:, LENGTH:])
    return not torch.allclose(*outputs, atol=1e-6)


right = True
for kind, config in MODELS.items():
    torch.manual_seed(0)
    model = kind(config).train()
    before = seen(model)
    Trainer(model, TrainingArguments(sys.argv[1], report_to="none", use_cpu=True))
    after = seen(model)
    ones = seen(model, attention_mask=torch.ones(1, 2 * LENGTH, dtype=torch.long))
    print(f"{kind.__name__}: as it is {before}, once a Trainer was built {after}, with a mask of ones {ones}")
    right &= (before, after, ones) == (True, False, True)
sys.exit(0 if right else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder/out" 2> /dev/null
