"""A small training script in nanoGPT's manner, which knows nothing of lengthen.

nanogpt.toml beside it compares its learning rates: python nanogpt.py --text=FILE --out_dir=DIR.
"""

import csv
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

text, out_dir, seed = "text.txt", "out", 1337
max_iters, eval_interval, eval_iters, batch_size, block_size = 300, 50, 8, 16, 64
learning_rate, n_embd, n_head, n_layer = 1e-3, 64, 2, 2
for word in sys.argv[1:]:
    key, value = word.removeprefix("--").split("=", 1)
    globals()[key] = type(globals()[key])(value)

torch.manual_seed(seed)
data = torch.frombuffer(bytearray(Path(text).read_bytes()), dtype=torch.uint8).long()
parts = {"train": data[: -len(data) // 10], "val": data[-len(data) // 10 :]}


class GPT(nn.Module):
    """Bytes to logits, whose positions and attention are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, n_embd), nn.Embedding(block_size, n_embd)
        layer = nn.TransformerEncoderLayer(n_embd, n_head, 4 * n_embd, 0.0, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, n_layer), nn.Linear(n_embd, 256)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of (rows, length) bytes and the ones that follow."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        hidden = self.body(self.tokens(x) + self.positions.weight, mask=mask, is_causal=True)
        return nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), y.flatten())


def get_batch(split: str, among: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return rows at random places, and the same one byte on."""
    part = parts[split]
    starts = torch.randint(len(part) - block_size, (batch_size,), generator=among).tolist()
    rows = torch.stack([part[start : start + block_size + 1] for start in starts])
    return rows[:, :-1], rows[:, 1:]


model, began = GPT(), time.time()
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
with open(f"{out_dir}/log.csv", "w", newline="", buffering=1) as file:
    log = csv.writer(file)
    log.writerow(["iter", "tokens", "train_loss", "val_loss", "seconds"])
    for it in range(1, max_iters + 1):
        loss = model(*get_batch("train"))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        val = ""
        if it % eval_interval == 0 or it == max_iters:
            same = torch.Generator().manual_seed(0)  # every run is judged by the same rows
            with torch.no_grad():
                losses = [model(*get_batch("val", same)).item() for _ in range(eval_iters)]
            val = f"{sum(losses) / eval_iters:.4f}"
        tokens = it * batch_size * block_size
        log.writerow([it, tokens, f"{loss.item():.4f}", val, f"{time.time() - began:.2f}"])
