#!/usr/bin/env bash
# megatron-core 0.16.1: IndexedDatasetBuilder writes another token where an id does not fit its type.
#
# The same document, given as a list, is refused by numpy. Given as a tensor, as `add_item` and
# `add_document` ask for, it is cast without a word: 70000 becomes 4464 in a file of uint16, and both
# files, data and index, are whole. A tokenizer that grew beyond the size that `DType.optimal_dtype`
# was asked for trains on other tokens, and no reader can tell.
#
# Output seen (Python 3.11, Linux, x86-64):
#   type for 50257 tokens: uint16
#   given [1, 70000, 3], in the file [1, 4464, 3]
#
# Exits 1 once the id is refused, or kept.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 packaging
"$place/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps megatron-core==0.16.1
cd "$place"
"$place/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

kind = DType.optimal_dtype(50257)
print(f"type for 50257 tokens: {kind.__name__}")
document = [1, 70000, 3]
builder = IndexedDatasetBuilder("a.bin", dtype=kind)
builder.add_item(torch.tensor(document))
builder.end_document()
builder.finalize("a.idx")
written = np.fromfile("a.bin", kind).tolist()
print(f"given {document}, in the file {written}")
sys.exit(0 if written == [1, 4464, 3] else 1)
PY
