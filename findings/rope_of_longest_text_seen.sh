#!/usr/bin/env bash
# transformers 5.24.0, torch 2.13.0: a Llama whose rotary positions stretch with the length of its input
# (rope_type "dynamic" and "longrope"). Nothing of it is raised or warned about.
#
# 1. "dynamic" keeps the frequencies of the longest input so far, until one comes that is within the
#    original length. So the loss of one text depends on the texts that were evaluated before it, and an
#    evaluation on the order of its texts.
# 2. With either type the logits of the first tokens change once the input grows past the original
#    length, though attention is causal: a token's logits depend on how many tokens follow it. A forward
#    pass over a whole text gives other losses of its beginning than one over the beginning alone.
# 3. In a batch the longest row decides: a short row, padded on the right and masked, gets other
#    logits than alone.
#
# Output seen (random weights, original length 64; losses in nats per token):
#   dynamic: a text of 96 tokens 7.1407, after one of 256 it is 7.0754, after one of 48 it is 7.1407 again
#   longrope: 7.3656 each time
#   largest change of the first 48 tokens' logits by 48 tokens behind them:
#     dynamic 10.95, longrope 13.99, linear 0.0; by a row of 96 in the batch: the same
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

ORIGINAL, SHORT, MIDDLE, LONG = 64, 48, 96, 256
EXACT = 1e-4  # above what sums in another order change
TYPES = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "longrope": {
        "factor": 4.0,
        "short_factor": [1.0] * 8,
        "long_factor": [1.0 + n / 2 for n in range(8)],
        "original_max_position_embeddings": ORIGINAL,
    },
}


def model(kind):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.5,
        max_position_embeddings=4 * ORIGINAL if kind == "longrope" else ORIGINAL,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **TYPES[kind]},
    )
    return LlamaForCausalLM(config).eval()


text = torch.randint(0, 64, (1, LONG), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def losses(kind, lengths):
    """Return the losses of the text's beginnings, evaluated one after the other by one model."""
    reader = model(kind)
    return [
        round(reader(text[:, :n], labels=text[:, :n], use_cache=False).loss.item(), 4) for n in lengths
    ]


@torch.no_grad()
def changed(kind, batched):
    """Return the largest change of the first tokens' logits by tokens behind them or beside them."""
    reader = model(kind)
    alone = reader(text[:, :SHORT], use_cache=False).logits[0]
    rows, mask = text[:, :MIDDLE], None
    if batched:
        padded = torch.zeros(1, MIDDLE, dtype=torch.int64)
        padded[:, :SHORT] = text[:, :SHORT]
        rows, mask = torch.cat([padded, text[:, :MIDDLE]]), torch.ones(2, MIDDLE, dtype=torch.int64)
        mask[0, SHORT:] = 0
    with_more = reader(rows, attention_mask=mask, use_cache=False).logits[0, :SHORT]
    return (with_more - alone).abs().max().item()


order = (MIDDLE, LONG, MIDDLE, SHORT, MIDDLE)
dynamic, longrope = losses("dynamic", order), losses("longrope", order)
before, _, after_long, _, after_short = dynamic
by_more = {kind: changed(kind, batched=False) for kind in TYPES}
by_batch = {kind: changed(kind, batched=True) for kind in TYPES}
print(f"dynamic: {before}, after a longer text {after_long}, after a short one {after_short}")
print("longrope:", longrope[::2], longrope[4])
print("by tokens behind:", {kind: round(change, 2) for kind, change in by_more.items()})
print("by a longer row in the batch:", {kind: round(change, 2) for kind, change in by_batch.items()})
as_seen = (
    before != after_long
    and before == after_short
    and longrope[0] == longrope[2] == longrope[4]
    and all((change > 0.1) == (kind != "linear") for kind, change in by_more.items())
    and all((change > 0.1) == (kind != "linear") for kind, change in by_batch.items())
    and max(by_more["linear"], by_batch["linear"]) < EXACT
)
sys.exit(0 if as_seen else 1)
PYTHON
