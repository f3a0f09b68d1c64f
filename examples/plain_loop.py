"""Length warmup in your own loop: python examples/plain_loop.py TEXT_FILE [STEPS [RUN]]."""

import sys
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

import lengthen

rows, full_length, width, vocabulary = 16, 64, 32, 256
tokens, positions = nn.Embedding(vocabulary, width), nn.Embedding(full_length, width)
layer = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout=0.0, batch_first=True)
body, head = nn.TransformerEncoder(layer, 2), nn.Linear(width, vocabulary)
model = nn.ModuleList([tokens, positions, body, head])


def mean_loss(inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of (rows, length) tokens, whatever the length."""
    mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1])
    hidden = tokens(inputs) + positions.weight[: inputs.shape[1]]
    logits = head(body(hidden, mask=mask, is_causal=True))
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


steps = int(sys.argv[2]) if len(sys.argv) > 2 else 300
pacing = lengthen.Linear(start=8, end=full_length, duration=steps // 2)
plan = lengthen.DataPlan(pacing=pacing, rows=rows, budget=steps * rows * full_length, reuse_after=8)
stream = lengthen.BatchStream(np.fromfile(sys.argv[1], np.uint8).astype(np.uint16), plan)
log = lengthen.RunLog(sys.argv[3], plan) if len(sys.argv) > 3 else None  # for `lengthen report RUN`
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step, ((inputs, targets, length, _),) in islice(stream, steps):
    loss = mean_loss(inputs, targets)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(f"step {step.number}  length {length}  loss {loss.item():.3f}")
    if log:
        log.step(step, loss=loss.item(), grad_norm=norm.item(), optimizer=optimizer)
if log:
    log.finish()
