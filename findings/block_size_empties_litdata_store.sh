#!/usr/bin/env bash
# litdata 0.2.76: how many tokens an epoch has depends on the block size, down to none. TokensLoader cuts
# each chunk into blocks by itself: what is left of a chunk is in no block, and a chunk of fewer tokens than
# a block has none. Documents are not divided between chunks either, so that a chunk holds up to chunk_size
# tokens and mostly fewer. One store read with longer rows later, as in a longer context, has fewer tokens;
# with a block size equal to its chunk size it is empty, and a loop over it does no step. Nothing is raised
# or warned about, in the training process or where the store is written.
#
# Output seen (30 documents of 100 tokens, written with chunk_size=512):
#   written 3000; block size 64: 2688 delivered, 128: 2304, 256: 1536, 512: 0
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 litdata==0.2.76
cat > "$folder/look.py" <<'PYTHON'
import sys

import torch
from litdata import StreamingDataset, TokensLoader, optimize

DOCUMENTS, TOKENS = 30, 100


def document(number):
    yield torch.arange(number * TOKENS, (number + 1) * TOKENS, dtype=torch.int32)


def delivered(block):
    """Return how many different tokens an epoch in blocks of this size has."""
    rows = StreamingDataset(sys.argv[1], item_loader=TokensLoader(block_size=block))
    return len({int(token) for row in rows for token in row})


if __name__ == "__main__":
    optimize(
        document, list(range(DOCUMENTS)), sys.argv[1], chunk_size=512, num_workers=1,
        item_loader=TokensLoader(),
    )
    found = {block: delivered(block) for block in (64, 128, 256, 512)}
    rest = ", ".join(f"{block}: {count}" for block, count in list(found.items())[1:])
    print(f"written {DOCUMENTS * TOKENS}; block size 64: {found[64]} delivered, {rest}")
    sys.exit(0 if list(found.values()) == [2688, 2304, 1536, 0] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder/store" > "$folder/log" 2>&1 \
    || { rc=$?; tail -3 "$folder/log"; exit $rc; }
grep written "$folder/log"
