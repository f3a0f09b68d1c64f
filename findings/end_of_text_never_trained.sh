#!/usr/bin/env bash
# transformers 5.24.0, torch 2.13.0: DataCollatorForLanguageModeling(mlm=False), with a tokenizer whose
# padding token is its end of text, as many recipes set it. Nothing of it is raised or warned about.
#
# 1. Every end of text gets the label -100, also in packed rows of one length, in which nothing is
#    padded. The model is never trained to end a text, and the mean loss is over fewer tokens.
# 2. Labels that the rows bring along, such as prompts that are not to be trained, are replaced by the
#    input: what was masked is trained on.
# With a padding token of its own the ends keep their labels; the rows' labels are lost as before.
#
# Output seen (rows `a b <end>`, packed; a GPT-2 of one layer, 150 steps):
#   labels: [1, 2, -100, 1, 2, -100], with another padding token [1, 2, 0, 1, 2, 0]
#   probability of the end after `a b`: below 0.01, with another padding token above 0.9
#   labels given as [-100, 2, 0]: [1, 2, -100], with another padding token [1, 2, 0]
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 transformers==5.24.0 tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

END, PADDING = "<end>", "<padding>"
VOCABULARY = {END: 0, "a": 1, "b": 2, PADDING: 3, "<unknown>": 4}


def collator(padding):
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token=padding)
    return DataCollatorForLanguageModeling(tokenizer, mlm=False)


def labels_of(padding, row):
    return collator(padding)([row])["labels"][0].tolist()


def probability_of_end(padding):
    """Train on packed texts `a b`; return how likely the end is after them."""
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(vocab_size=5, n_positions=12, n_embd=16, n_layer=1, n_head=2, **ends)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = collator(padding)([{"input_ids": [1, 2, 0] * 4}] * 4)
    for _ in range(150):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return model(torch.tensor([[1, 2]])).logits[0, -1].softmax(-1)[0].item()


packed, masked = {"input_ids": [1, 2, 0, 1, 2, 0]}, {"input_ids": [1, 2, 0], "labels": [-100, 2, 0]}
labels = [labels_of(padding, packed) for padding in (END, PADDING)]
given = [labels_of(padding, masked) for padding in (END, PADDING)]
likely = [probability_of_end(padding) for padding in (END, PADDING)]
print("labels:", *labels)
print("labels given as [-100, 2, 0]:", *given)
print("probability of the end:", *(f"{one:.4f}" for one in likely))
as_seen = (
    labels == [[1, 2, -100, 1, 2, -100], [1, 2, 0, 1, 2, 0]]
    and given == [[1, 2, -100], [1, 2, 0]]
    and likely[0] < 0.01
    and likely[1] > 0.9
)
sys.exit(0 if as_seen else 1)
PYTHON
