#!/usr/bin/env bash
# megatron-core 0.16.1: which tokens of a GPTDataset count in the loss depends on which of its samples was
# read first. Without reset flags and eod_mask_loss it makes the loss mask once and keeps it. The first sample
# gets the mask that is kept, and writes the zeros of its own padding into it; each later one copies that.
# Where the first is the one that is padded, as the last of a validation set is with
# drop_last_partial_validation_sequence=False, all others lose the loss at the same places. The samples are
# shuffled, and each worker has a first of its own: by chance a validation loss, or one worker's part of it, is
# that of a few tokens of each row. Nothing is raised or warned about.
#
# Output seen (100 tokens in four samples of 32; how many count in each):
#   a full sample first: [32, 32, 32, 3]
#   the padded one first: [3, 3, 3, 3]
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 packaging
"${pip[@]}" --no-deps megatron-core==0.16.1
cd "$folder"
venv/bin/python -W ignore - 2> log <<'PYTHON' || { rc=$?; tail -3 log; exit $rc; }
import sys

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from megatron.core.datasets.utils import Split
from megatron.core.tokenizers.text.libraries.null_tokenizer import NullTokenizer

DOCUMENTS, TOKENS = 5, 20
builder = IndexedDatasetBuilder("valid.bin", dtype=np.uint16)
for _ in range(DOCUMENTS):
    builder.add_item(torch.arange(TOKENS))
    builder.end_document()
builder.finalize("valid.idx")
config = GPTDatasetConfig(
    random_seed=1, sequence_length=32, split="0,100,0", path_to_cache="cache",
    tokenizer=NullTokenizer(TOKENS), reset_position_ids=False, reset_attention_mask=False,
    eod_mask_loss=False, create_attention_mask=False, drop_last_partial_validation_sequence=False,
)


def dataset():
    low = GPTDataset.build_low_level_dataset("valid", config)
    documents = np.arange(DOCUMENTS, dtype=np.int32)
    return GPTDataset(low, "valid", documents, None, Split.valid, config)


def counted(first):
    """Return the tokens that count in each sample, in the order of the file, where `first` is read first."""
    samples = dataset()
    order = np.argsort(samples.shuffle_index).tolist()
    samples[order[first]]
    return [int(samples[number]["loss_mask"].sum()) for number in order]


full, padded = counted(0), counted(3)
print(f"a full sample first: {full}")
print(f"the padded one first: {padded}")
sys.exit(0 if (full, padded) == ([32, 32, 32, 3], [3, 3, 3, 3]) else 1)
PYTHON
