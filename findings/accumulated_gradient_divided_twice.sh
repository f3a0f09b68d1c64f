#!/usr/bin/env bash
# transformers 5.3.0 with accelerate 1.15.0 (each allows the other): a Trainer with
# gradient_accumulation_steps=k trains on 1/k of the gradient. The loss is already over the tokens of
# the whole step (num_items_in_batch), and Accelerate's backward divides it by k once more. The loss in
# the log is the right one, and nothing is warned about; an optimizer that does not care about the scale
# of gradients, such as Adam, hides it, while clipping and weight decay act k times as weakly or
# strongly as meant. With transformers 5.6.0 the gradient is whole.
#
# Output seen (one step of the same four rows; gradient norm as the Trainer logs it):
#   transformers 5.3.0: 4 rows at once 0.8666, 4 times one row 0.2166
#   transformers 5.6.0: 4 rows at once 0.8666, 4 times one row 0.8666
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cat > "$folder/train.py" <<'PYTHON'
import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

rows = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(1))
data = [{"input_ids": row, "labels": row} for row in rows]


def norm(at_once: int) -> float:
    """Return the gradient norm of one step over the four rows, `at_once` of them in a pass."""
    set_seed(0)
    config = GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    )
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out, max_steps=1, per_device_train_batch_size=at_once,
            gradient_accumulation_steps=4 // at_once, logging_steps=1, max_grad_norm=1e9,
            report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        )
        trainer = Trainer(GPT2LMHeadModel(config), arguments, train_dataset=data)
        trainer.train()
    return next(line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line)


whole, parts = norm(4), norm(1)
print(f"4 rows at once {whole:.4f}, 4 times one row {parts:.4f}")
sys.exit(0 if abs(parts / whole - float(sys.argv[1])) < 0.01 else 1)
PYTHON
for case in "5.3.0 0.25" "5.6.0 1"; do
    read -r version ratio <<< "$case"
    "${pip[@]}" "transformers==$version"
    printf 'transformers %s: ' "$version"
    "$folder/venv/bin/python" "$folder/train.py" "$ratio" 2> /dev/null | grep rows
done
