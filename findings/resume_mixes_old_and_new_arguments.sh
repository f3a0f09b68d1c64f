#!/usr/bin/env bash
# transformers 5.24.0: a Trainer that is resumed with changed arguments trains with some of the old ones and
# some of the new. The learning rate, weight decay and betas come from the checkpoint, whose optimizer and
# scheduler states replace what was just built; the shape of the schedule (its kind, `max_steps`, the warmup)
# comes from the arguments. `trainer.args` has the new values of all of them. A rate that was lowered for a
# resume is not, and a longer `max_steps` makes the rate jump up, one step after the resume. It warns of
# changed batch sizes and intervals, and of none of these.
#
# Output seen (a linear schedule of 8 steps with a rate of 0.008, resumed after step 4; rates of steps 5 to 8):
#   unchanged: [0.004, 0.003, 0.002, 0.001]
#   learning_rate=0.001: [0.004, 0.003, 0.002, 0.001]
#   max_steps=16: [0.004, 0.0055, 0.005, 0.0045]
#   lr_scheduler_type='constant': [0.004, 0.008, 0.008, 0.008]
#   weight_decay=0.0, adam_beta2=0.95: in use 0.1 and 0.999
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
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

out = sys.argv[1]
config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, bos_token_id=0, eos_token_id=0,
)
rows = torch.randint(0, 32, (32, 8), generator=torch.Generator().manual_seed(1))
data = [{"input_ids": row, "labels": row} for row in rows]
FIRST = {
    "max_steps": 8, "learning_rate": 8e-3, "lr_scheduler_type": "linear",
    "weight_decay": 0.1, "adam_beta2": 0.999,
}


def train(changes, resume=f"{out}/checkpoint-4"):
    """Return the trainer and the rates of steps 5 to 8."""
    arguments = TrainingArguments(
        out, **(FIRST | changes), per_device_train_batch_size=1, logging_steps=1, save_steps=4,
        report_to="none", use_cpu=True, disable_tqdm=True,
    )
    trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint=resume)
    logged = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    return trainer, [round(rate, 6) for rate in logged[4:8]]


_, unbroken = train({}, resume=None)
print(f"unchanged: {unbroken}")
found = {}
for name, value in (("learning_rate", 1e-3), ("max_steps", 16), ("lr_scheduler_type", "constant")):
    _, found[name] = train({name: value})
    print(f"{name}={value!r}: {found[name]}")
trainer, _ = train({"weight_decay": 0.0, "adam_beta2": 0.95})
group = trainer.optimizer.param_groups[0]
used = group["weight_decay"], group["betas"][1]
print("weight_decay=0.0, adam_beta2=0.95: in use {} and {}".format(*used))
same = (
    found["learning_rate"] == unbroken == [0.004, 0.003, 0.002, 0.001]
    and found["max_steps"] == [0.004, 0.0055, 0.005, 0.0045]
    and found["lr_scheduler_type"] == [0.004, 0.008, 0.008, 0.008]
    and used == (0.1, 0.999)
)
sys.exit(0 if same else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder/out" 2> /dev/null | grep -E "^(unchanged|l|max|weight)"
