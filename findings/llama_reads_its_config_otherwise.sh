#!/usr/bin/env bash
# transformers 5.24.0: three things that a Llama does otherwise than its config or its type says,
# without an error or a warning.
#
# 1. `partial_rotary_factor` and `sliding_window` are kept in the config, saved with it, and ignored: the
#    logits are those without them, to the bit.
# 2. Where a config has `rope_theta` beside `rope_parameters`, as files in between two versions do, the
#    one in `rope_parameters` is used and the other is dropped.
# 3. A float64 model turns its queries and keys by angles in float32. Its logits are as far from float64's
#    as float32 is, where a GPT-2 in float64 is exact.
#
# Output seen (one layer, 512 positions; the largest difference of a cosine from float64's own):
#   partial_rotary_factor 0.5 changes the logits by 0.0, sliding_window 4 by 0.0
#   rope_theta 500 beside 1000000 in rope_parameters: 1000000.0
#   float64 cosines: off by more than 1e-6
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 transformers==5.24.0
cat > "$folder/look.py" <<'PYTHON'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 512,
}


def model(**settings):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **settings)).double().eval()


@torch.no_grad()
def changed_by(**settings):
    rows = torch.arange(64)[None] % 32
    return (model(**settings)(rows).logits - model()(rows).logits).abs().max().item()


partial, window = changed_by(partial_rotary_factor=0.5), changed_by(sliding_window=4)
both = LlamaConfig(
    **SIZES, rope_theta=500.0, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
)
theta = both.rope_parameters["rope_theta"]
positions = torch.arange(512)[None]
cosines, _ = model().model.rotary_emb(torch.zeros(1, 512, 16, dtype=torch.float64), positions)
frequencies = 1e4 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
angles = positions[0, :, None].double() * frequencies
off = (cosines[0] - torch.cat((angles, angles), -1).cos()).abs().max().item()
print(f"partial_rotary_factor 0.5 changes the logits by {partial}, sliding_window 4 by {window}")
print(f"rope_theta 500 beside 1000000 in rope_parameters: {theta}")
print("float64 cosines: off by", "more than 1e-6" if off > 1e-6 else off)
same = partial == window == 0.0 and theta == 1e6 and cosines.dtype == torch.float64 and off > 1e-6
sys.exit(0 if same else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" 2> /dev/null
