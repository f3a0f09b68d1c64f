#!/usr/bin/env bash
# transformers 5.24.0: whether a Trainer trains on the mean loss or on (length - 1) / length of it is
# decided by the name of the model's class. A causal model has one target less than a row has tokens.
# The Trainer counts the targets of a step from the labels, and takes off the first one of each row
# where it takes the model for one that shifts them, by the names that it knows: Llama is such a
# one, and GPT-2, which shifts its labels too, is none. A row's loss is divided by one target too many then,
# the more so the shorter the rows are, in the log and in the gradient alike. Nothing is warned about.
# A batch with `shift_labels` has as many targets as tokens, and both classes train on the mean.
#
# Output seen (one step of four rows; the loss in the log as a share of the model's own mean):
#   8 tokens: GPT2LMHeadModel 0.875, LlamaForCausalLM 1.000
#   64 tokens: GPT2LMHeadModel 0.984, LlamaForCausalLM 1.000
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
import tempfile

import torch
from transformers import (
    GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed,
)

MODELS = {
    GPT2LMHeadModel: GPT2Config(
        vocab_size=32, n_positions=64, n_embd=16, n_layer=1, n_head=2,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    ),
    LlamaForCausalLM: LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64,
    ),
}


def share(kind, length):
    """Return the logged loss of one step over the model's own mean loss of the same rows."""
    set_seed(0)
    model = kind(MODELS[kind])
    rows = torch.randint(0, 32, (4, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean = model(input_ids=rows, labels=rows).loss.item()
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out, max_steps=1, per_device_train_batch_size=4, logging_steps=1,
            report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        )
        data = [{"input_ids": row, "labels": row} for row in rows]
        trainer = Trainer(model, arguments, train_dataset=data)
        trainer.train()
    return next(line["loss"] for line in trainer.state.log_history if "loss" in line) / mean


right = True
for length in (8, 64):
    gpt2, llama = (share(kind, length) for kind in MODELS)
    print(f"{length} tokens: GPT2LMHeadModel {gpt2:.3f}, LlamaForCausalLM {llama:.3f}")
    right &= abs(gpt2 - (length - 1) / length) < 1e-3 and abs(llama - 1) < 1e-3
sys.exit(0 if right else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" 2> /dev/null | grep tokens:
