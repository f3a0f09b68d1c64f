"""Length warmup in somebody else's loop: python examples/plain_loop.py TEXT_FILE [STEPS]."""

import sys

import numpy as np
import torch
from torch import Tensor, nn

from lengthen.ledger import Ledger
from lengthen.loader import Loader
from lengthen.pacing import Linear

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
loader = Loader(np.fromfile(sys.argv[1], np.uint8).astype(np.uint16), full_length, seed=0)
pacing = Linear(start=8, end=full_length, duration=steps // 2)
ledger = Ledger.start(sequences=loader.sequences, full_length=full_length, reuse_after=8)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(steps):
    blocks, ledger = ledger.take(rows, pacing(step))
    loss = mean_loss(*loader.load(blocks, rows, pacing(step)))
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    print(f"step {step + 1}  length {pacing(step)}  loss {loss.item():.3f}")
