#!/usr/bin/env bash
# torch 2.13.0, CPU: torch.nn.functional.linear_cross_entropy with options of default values, on
# bfloat16 inputs, returns a loss that is 6 % too small. It adds the chunks up in the input's type: in
# bfloat16 a sum of some thousands swallows what is added. Without options the same call is right to
# bfloat16's own rounding, and so is the chunked one with reduction="none", summed in float32.
# The default of acc_dtype does not help, and nothing is warned about.
#
# Output seen (4096 tokens, width 128, vocabulary 8192):
#   float32 9.0387, plain bfloat16 9.0000, chunked bfloat16 8.5000
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.nn.functional import linear_cross_entropy

torch.manual_seed(0)
hidden, head = torch.randn(4096, 128), torch.randn(8192, 128) * 0.02
targets = torch.randint(0, 8192, (4096,))
whole = linear_cross_entropy(hidden, head, targets).item()
half = (hidden.bfloat16(), head.bfloat16(), targets)
plain = linear_cross_entropy(*half).item()
chunked = linear_cross_entropy(*half, options=torch.nn.LinearCrossEntropyOptions()).item()
print(f"float32 {whole:.4f}, plain bfloat16 {plain:.4f}, chunked bfloat16 {chunked:.4f}")
sys.exit(0 if abs(plain / whole - 1) < 0.01 and chunked / whole < 0.97 else 1)
PYTHON
