"""A training script like nanoGPT's, which knows nothing of lengthen.

python nanogpt.py --text=FILE --out_dir=DIR [--init_from=resume]. nanogpt.toml compares its
learning rates; nanogpt_lengthened.py is this script with a length warmup, 22 lines changed.
"""

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

text, out_dir, init_from, seed = "text.txt", "out", "scratch", 1337
max_iters, eval_interval, eval_iters, batch_size, block_size = 300, 50, 8, 8, 64
gradient_accumulation_steps, grad_clip, warmup_iters = 2, 1.0, 20
learning_rate, min_lr, n_embd, n_head, n_layer = 1e-3, 1e-4, 64, 2, 2
for word in sys.argv[1:]:
    key, value = word.removeprefix("--").split("=", 1)
    globals()[key] = type(globals()[key])(value)

rows = gradient_accumulation_steps * batch_size
tokens_per_iter = rows * block_size
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
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.tokens(x) + self.positions.weight[:length]
        logits = self.head(self.body(hidden, mask=mask, is_causal=True))
        return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())


def get_batch(split: str, among: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return rows at random places, and the same one byte on."""
    part = parts[split]
    starts = torch.randint(len(part) - block_size, (batch_size,), generator=among).tolist()
    rows = torch.stack([part[start : start + block_size + 1] for start in starts])
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def estimate_loss() -> float:
    """Return the loss of some batches of the validation part, the same for every run."""
    same = torch.Generator().manual_seed(0)
    losses = torch.stack([model(*get_batch("val", same)) for _ in range(eval_iters)])
    return losses.mean().item()


def get_lr(it: int) -> float:
    """Return an iteration's learning rate: a linear warmup, then a cosine."""
    if it < warmup_iters:
        return learning_rate * (it + 1) / warmup_iters
    done = (it - warmup_iters) / max(1, max_iters - warmup_iters)
    return min_lr + 0.5 * (1 + math.cos(math.pi * done)) * (learning_rate - min_lr)


model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
states: dict[str, Any] = {
    "model": model,
    "optimizer": optimizer,
}
checkpoint = torch.load(f"{out_dir}/ckpt.pt") if init_from == "resume" else {}
for name, part in states.items():
    if checkpoint:
        part.load_state_dict(checkpoint[name])
iter_num, began = checkpoint.get("iter_num", 0), time.time()
if not iter_num:
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    Path(f"{out_dir}/log.csv").write_text("iter,tokens,train_loss,val_loss,seconds\n")
while iter_num < max_iters:
    for group in optimizer.param_groups:
        group["lr"] = get_lr(iter_num)
    total = 0.0
    for _ in range(gradient_accumulation_steps):
        loss = model(*get_batch("train")) / gradient_accumulation_steps
        torch.autograd.backward(loss)
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    optimizer.zero_grad()
    iter_num += 1
    val = ""
    if iter_num % eval_interval == 0 or iter_num == max_iters:
        val = f"{estimate_loss():.4f}"
        saved = {name: part.state_dict() for name, part in states.items()}
        torch.save({**saved, "iter_num": iter_num}, f"{out_dir}/ckpt.pt")
    tokens, seconds = iter_num * tokens_per_iter, time.time() - began
    with open(f"{out_dir}/log.csv", "a") as log:
        log.write(f"{iter_num},{tokens},{total:.4f},{val},{seconds:.2f}\n")
