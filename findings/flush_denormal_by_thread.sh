#!/usr/bin/env bash
# torch 2.13.0, CPU: torch.set_flush_denormal sets a mode of the calling thread alone. Threads that
# torch starts afterwards take it over; those that run already keep theirs. Called after the first
# parallel operation of a process, it flushes that part of each result which the calling thread
# computes and no other, so that equal elements of one tensor come out different. The call returns
# True all the same, and its documentation says nothing of threads.
#
# Output seen (two threads, an elementwise product, elements that stay subnormal in each half):
#   set first: [0, 0]
#   set late: [0, 32768]
# Exits with 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import sys

import torch

torch.set_num_threads(2)
half = 2**15  # the least that torch gives to one thread
if sys.argv[1] == "late":
    torch.zeros(2 * half) * 1.0  # starts the second thread
assert torch.set_flush_denormal(True)
# Made and read as bits: a thread that flushes could do neither with a subnormal number.
numbers = torch.ones(2 * half, dtype=torch.int32).view(torch.float32)
print((numbers * 1.0).view(torch.int32).view(2, half).count_nonzero(1).tolist())
PYTHON
first=$("$folder/venv/bin/python" "$folder/look.py" first)
late=$("$folder/venv/bin/python" "$folder/look.py" late)
echo "set first: $first"
echo "set late: $late"
[ "$first" = "[0, 0]" ] && [ "$late" = "[0, 32768]" ]
