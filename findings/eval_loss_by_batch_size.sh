#!/usr/bin/env bash
# transformers 5.24.0, torch 2.13.0: Trainer.evaluate of one model on one set of texts that differ in
# their number of targets, as documents do, or rows of one length with other numbers of masked labels.
#
# eval_loss is the mean over texts of their batch's mean loss, not a mean over tokens. A text of 3
# targets counts as much as one of 59, and by how much depends on which texts share a batch: another
# per_device_eval_batch_size, or the same texts in another order, gives another eval_loss of the same
# weights. Two runs that were evaluated in different batches cannot be compared, and exp(eval_loss) is
# no perplexity of the text. Training is otherwise: its loss is a mean over the step's targets
# (num_items_in_batch). A batch of all texts gives the mean over tokens.
#
# Output seen (two texts of 4 tokens that the model knows, two of 60): mean over tokens 3.949; eval_loss
# in batches of 1 and of 2: 2.125, of 4: 3.949; of 2 with the texts in another order: 3.949
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 32}
model = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=32)).eval()
generator = torch.Generator().manual_seed(0)
short, long = [1] * 4, [torch.randint(32, (60,), generator=generator).tolist() for _ in range(2)]
texts = [{"input_ids": ids, "labels": ids} for ids in (short, short, *long)]


def collate(items):
    longest = max(len(item["labels"]) for item in items)

    def padded(name, value):
        return torch.tensor([item[name] + [value] * (longest - len(item[name])) for item in items])

    ones = [{"ones": [1] * len(item["labels"])} for item in items]
    mask = torch.tensor([one["ones"] + [0] * (longest - len(one["ones"])) for one in ones])
    ids = {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100)}
    return {**ids, "attention_mask": mask}


def eval_loss(size, rows):
    asked = TrainingArguments(
        sys.argv[1],
        per_device_eval_batch_size=size,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )
    evaluated = Trainer(model, asked, data_collator=collate, eval_dataset=rows).evaluate()
    return round(evaluated["eval_loss"], 3)


optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(20):  # so that the model knows the short texts
    model(**collate([texts[0]])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()

total = targets = 0.0
with torch.no_grad():
    for text in texts:
        count = len(text["labels"]) - 1
        total += model(**collate([text])).loss.item() * count
        targets += count
by_token = round(total / targets, 3)
by_size = {size: eval_loss(size, texts) for size in (1, 2, 4)}
reordered = eval_loss(2, [texts[0], texts[2], texts[1], texts[3]])
print("mean over tokens:", by_token, "eval_loss by batch size:", by_size, "reordered:", reordered)
as_seen = (
    abs(by_size[4] - by_token) < 0.002
    and by_token - by_size[1] > 1
    and by_size[1] == by_size[2]
    and abs(reordered - by_token) < 0.002
)
sys.exit(0 if as_seen else 1)
PYTHON
