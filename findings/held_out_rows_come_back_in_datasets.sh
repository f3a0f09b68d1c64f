#!/usr/bin/env bash
# datasets 5.2.0 with transformers 5.24.0: rows that were held out of a stream are trained on from the
# second epoch. `stream.shuffle(seed).take(n)` and `.skip(n)` share no row as they are made. The shuffle is
# drawn again from seed and epoch; `skip` keeps a number of rows, not the rows. A Trainer tells the stream
# its epoch at each start of one, so that other rows are skipped, and most of those held out come. Nothing
# is raised or warned about. Splitting before the shuffle (`stream.take(n)`, `stream.skip(n).shuffle(seed)`)
# holds the same rows out in both.
#
# Output seen (100 rows, 20 of them held out; how many of these are trained on in epochs 1 and 2):
#   shuffled, then split: [0, 14]; split, then shuffled: [0, 0]
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 accelerate==1.15.0 transformers==5.24.0 datasets==5.2.0
cat > "$folder/look.py" <<'PYTHON'
import sys

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

HELD, LEFT = 20, 80
rows = Dataset.from_dict({"input_ids": [[n] * 4 for n in range(HELD + LEFT)]})
stream = rows.to_iterable_dataset(num_shards=4)
config = LlamaConfig(
    vocab_size=HELD + LEFT, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, bos_token_id=0, eos_token_id=0,
)
arguments = TrainingArguments(
    sys.argv[1], max_steps=2 * LEFT // 10, per_device_train_batch_size=10,
    report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
)


def returned(train, valid):
    """Return how many rows of `valid` are trained on in each of two epochs."""
    seen = []

    def collate(batch):
        ids = torch.tensor([row["input_ids"] for row in batch])
        seen.extend(ids[:, 0].tolist())
        return {"input_ids": ids, "labels": ids}

    Trainer(LlamaForCausalLM(config), arguments, train_dataset=train, data_collator=collate).train()
    held = {row["input_ids"][0] for row in valid}
    return [len(held & set(seen[first : first + LEFT])) for first in (0, LEFT)]


shuffled = stream.shuffle(seed=42, buffer_size=100)
late = returned(shuffled.skip(HELD), shuffled.take(HELD))
early = returned(stream.skip(HELD).shuffle(seed=42, buffer_size=100), stream.take(HELD))
print(f"shuffled, then split: {late}; split, then shuffled: {early}")
sys.exit(0 if late[0] == 0 and late[1] > HELD // 2 and early == [0, 0] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder/out" 2> /dev/null | grep shuffled
